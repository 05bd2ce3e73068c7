"""1-Lipschitz layers: ‖f(x) − f(y)‖₂ ≤ ‖x − y‖₂."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def almost_orthogonal(weight: torch.Tensor) -> torch.Tensor:
    """Rescale the weight of a convolution (O, I, k, k) so that its spectral norm is at most 1.

    Each input channel i is divided by the root of Σ_{j, shifts} |Σ_o w_oi ⋆ w_oj| (Prach and Lampert, ECCV 2022, arXiv
    2208.03160, theorems 1 and 2). That is a bound, not an estimate: it holds for any weight and any image size. Zero padding
    and strides only drop rows or columns of the matrix, which does not increase its norm.
    """
    taps = weight.transpose(0, 1)
    correlation = functional.conv2d(taps, taps, padding=weight.shape[-1] - 1)
    square = correlation.abs().sum(dim=(1, 2, 3))
    return weight * square.clamp(min=1e-12).rsqrt().view(1, -1, 1, 1)


class BoundedConv2d(nn.Module):
    """A convolution with a spectral norm of at most 1.

    Args:
        channels_in, channels_out: channels of the maps.
        side: side of the kernel; odd, with zero padding that preserves the size.
        patches: whether to use non-overlapping patches instead: a stride of `side`, any `side`, no padding.
    """

    def __init__(self, channels_in: int, channels_out: int, side: int, patches: bool = False) -> None:
        super().__init__()
        self.patches, self.side = patches, side
        self.weight = nn.Parameter(torch.zeros(channels_out, channels_in, side, side))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        with torch.no_grad():  # orthogonal columns, for which the bound is tight; with noise, signals in a deep net vanish
            if patches:
                nn.init.orthogonal_(self.weight.view(channels_out, -1))
            else:
                self.weight[:, :, side // 2, side // 2] = nn.init.orthogonal_(torch.empty(channels_out, channels_in))

    def kernel(self) -> torch.Tensor:
        """Compute the rescaled weight, in float32 for any training precision."""
        with torch.autocast(self.weight.device.type, enabled=False):
            weight = self.weight.float()
            if self.patches:  # a plain matrix on flattened patches, as they do not overlap
                return almost_orthogonal(weight.flatten(1)[:, :, None, None]).view_as(weight)
            return almost_orthogonal(weight)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        stride, padding = (self.side, 0) if self.patches else (1, self.side // 2)
        return functional.conv2d(maps, self.kernel(), self.bias, stride, padding)


class MaxMin(nn.Module):
    """The MaxMin activation, which sorts channels in pairs (Anil, Lucas, Grosse, ICML 2019, arXiv 1811.05381); C even.

    It is a permutation of the input at every point, so it preserves norms and, unlike ReLU, the norms of gradients.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        first, second = maps.chunk(2, dim=1)
        swap = functional.relu(second - first)  # twice as fast as maximum and minimum, including the backward pass
        return torch.cat([first + swap, second - swap], dim=1)
