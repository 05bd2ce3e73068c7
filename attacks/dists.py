"""DISTS, a full-reference distance of structure and texture (Ding, Ma, Wang, Simoncelli, TPAMI 2020, arXiv 2004.07728).

Weights are read from a file given by the user; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

WEIGHTS = (
    "one .safetensors or .pth file with features.N.weight and features.N.bias of torchvision's VGG-16 (IMAGENET1K_V1), "
    "and alpha and beta of weights.pt in https://github.com/dingkeyan93/DISTS"
)
"""Description of the weight file, and where its parts can be obtained."""

_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Convolutions of VGG-16 in torchvision's numbering; the features after the last one of each stage are compared."""
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_C1 = _C2 = 1e-6


class DISTS(nn.Module):
    """1 − Σ(α·texture + β·structure) over the channels of the image and of five stages of VGG-16 with L2 pooling.

    Args:
        weights: ``features.N.weight`` and ``features.N.bias`` of the convolutions; ``alpha`` and ``beta``, (1, C, 1, 1), of
            the C = 3 + 64 + 128 + 256 + 512 + 512 channels.

    Raises:
        ValueError: if a tensor is missing or the shapes do not match.
    """

    alpha: torch.Tensor
    beta: torch.Tensor
    window: torch.Tensor

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        names = [f"features.{layer}" for stage in _STAGES for layer in stage]
        needed = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")] + ["alpha", "beta"]
        missing = [name for name in needed if name not in weights]
        if missing:
            raise ValueError(f"the DISTS weights lack {', '.join(missing)}; needed is {WEIGHTS}")
        channels = [3, *(len(weights[f"features.{stage[-1]}.bias"]) for stage in _STAGES)]
        if any(weights[name].numel() != sum(channels) for name in ("alpha", "beta")):
            raise ValueError(f"alpha and beta of the DISTS weights must have {sum(channels)} values, one a channel")
        for name in needed[:-2]:
            self.register_buffer(name.replace(".", "_"), weights[name].float())
        total = weights["alpha"].sum() + weights["beta"].sum()
        self.register_buffer("alpha", (weights["alpha"] / total).float().flatten())
        self.register_buffer("beta", (weights["beta"] / total).float().flatten())
        hann = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("window", hann[:, None] * hann)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the images (N, 3, H, W) in [0, 1] themselves, and their features of the five stages."""
        mean, deviation = (images.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
        maps, features = (images - mean) / deviation, [images]
        for number, stage in enumerate(_STAGES):
            if number > 0:
                count = maps.shape[1]
                window = self.window.expand(count, 1, 3, 3)
                maps = (functional.conv2d(maps**2, window, stride=2, padding=1, groups=count) + 1e-12).sqrt()
            for layer in stage:
                kernel, bias = (self.get_buffer(f"features_{layer}_{kind}") for kind in ("weight", "bias"))
                maps = functional.relu(functional.conv2d(maps, kernel, bias, padding=1))
            features.append(maps)
        return features

    def forward(self, images: torch.Tensor, clean: list[torch.Tensor]) -> torch.Tensor:
        """Compute the distances (N,) of images from clean images given by their `features`; 0 means no difference."""
        likeness = []
        for x, y in zip(self.features(images), clean, strict=True):
            mean_x, mean_y = x.mean(dim=(2, 3)), y.mean(dim=(2, 3))
            centred_x, centred_y = x - mean_x[..., None, None], y - mean_y[..., None, None]
            variances = (centred_x**2).mean(dim=(2, 3)) + (centred_y**2).mean(dim=(2, 3))
            covariance = (centred_x * centred_y).mean(dim=(2, 3))
            texture = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
            likeness.append((texture, (2 * covariance + _C2) / (variances + _C2)))
        textures, structures = (torch.cat(parts, dim=1) for parts in zip(*likeness, strict=True))
        return 1 - (self.alpha * textures + self.beta * structures).sum(dim=1)


def load(path: str | Path) -> DISTS:
    """Load DISTS with the weights of a file.

    Raises:
        ValueError: if the file cannot be read as weights or lacks some of them.
        FileNotFoundError: if the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; needed is {WEIGHTS}")
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights ({type(error).__name__}); needed is {WEIGHTS}") from None
    if not isinstance(weights, dict):
        raise ValueError(f"{path} holds no weights by name; needed is {WEIGHTS}")
    return DISTS(weights)
