"""`stadv`: spatially transformed adversarial images (Xiao, Zhu, Li, He, Liu, Song, ICLR 2018, arXiv 1801.02612)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.threat import Threat
from iqarena.attacks.transformed import Transformed

_DAMPING = 1e-3
"""Squared change of a channel per pixel of flow, below which a location counts as flat."""
_TINY = 1e-8


@dataclass(frozen=True)
class StAdv(Transformed):
    """A flow field, sampled bilinearly, that displaces pixels instead of changing values, with a penalty on its roughness.

    With J the derivative of the image with respect to the flow and g the gradient of the loss with respect to the image, a
    step goes along −(JᵀJ + λ)⁻¹(Jᵀg / mean|Jᵀg| + τ ∇ Σ√(‖∇u‖² + ‖∇v‖²)), pixel by pixel; the paper uses L-BFGS on the sum
    of both terms. The paper has no bound; here the image is kept in the ball as for every attack. A small ℓ∞ ball leaves
    little of a warp, since changes at edges beyond ε are clipped.

    Attributes:
        steps: gradient steps; fewer if the query limit is lower.
        step_size: length of the first step as a fraction of the flow that reaches the edge of the ball; it falls linearly to
            0.
        smoothness: τ, at least 0.
        longest: maximum displacement along an axis, in pixels.
    """

    name: ClassVar[str] = "stadv"
    paper: ClassVar[str] = "https://arxiv.org/abs/1801.02612"

    smoothness: float = 0.05
    longest: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smoothness < 0 or not self.longest > 0:
            raise ValueError(f"{self.name}: smoothness must be at least 0 and longest above 0")

    def identity(self, images: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(images[:, :2])

    def applied(self, parameters: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return warped(images, parameters)[0]

    def allowed(self, parameters: torch.Tensor) -> torch.Tensor:
        return parameters.clamp(-self.longest, self.longest)

    def direction(
        self, parameters: torch.Tensor, images: torch.Tensor, gradient: torch.Tensor, threat: Threat
    ) -> torch.Tensor:
        _, down, across = warped(images, parameters)
        pull = torch.stack([(gradient * down).sum(dim=1), (gradient * across).sum(dim=1)], dim=1)
        pull = pull / pull.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-20)
        pull = pull + self.smoothness * roughness_gradient(parameters)
        # the inverse of a symmetric 2×2 matrix per pixel
        vertical = down.square().sum(dim=1) + _DAMPING
        horizontal = across.square().sum(dim=1) + _DAMPING
        mixed = (down * across).sum(dim=1)
        step = torch.stack([horizontal * pull[:, 0] - mixed * pull[:, 1], vertical * pull[:, 1] - mixed * pull[:, 0]], dim=1)
        step = step / (vertical * horizontal - mixed.square())[:, None]
        return -step / step.flatten(1).abs().amax(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)


def warped(images: torch.Tensor, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sample images at each pixel position plus its flow, and return the derivatives with respect to the flow as well.

    Bilinear; positions beyond the border are clamped to it. At integer positions the derivatives are one-sided, toward the
    next pixel.

    Args:
        images: (N, C, H, W).
        flow: (N, 2, H, W), in pixels, down and across.

    Returns:
        The warped images, and their derivatives with respect to the flow down and across, each (N, C, H, W).
    """
    count, channels, height, width = images.shape
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device).view(1, -1, 1)
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device).view(1, 1, -1)
    row = (rows + flow[:, 0]).clamp(0, height - 1)
    column = (columns + flow[:, 1]).clamp(0, width - 1)
    top, left = row.floor().clamp(max=max(height - 2, 0)), column.floor().clamp(max=max(width - 2, 0))
    below, beside = (row - top)[:, None], (column - left)[:, None]
    corner = (top * width + left).long().view(count, 1, -1).expand(-1, channels, -1)
    values = images.flatten(2)
    down, right = (width if height > 1 else 0), (1 if width > 1 else 0)
    a, b, c, d = (values.gather(2, corner + offset).view_as(images) for offset in (0, right, down, down + right))
    upper, lower = a.lerp(b, beside), c.lerp(d, beside)
    return upper.lerp(lower, below), lower - upper, (b - a).lerp(d - c, below)


def roughness_gradient(flow: torch.Tensor) -> torch.Tensor:
    """Compute the gradient of Σ √(‖∇u‖² + ‖∇v‖²), with forward differences, with respect to the flow (N, 2, H, W)."""
    down, across = torch.zeros_like(flow), torch.zeros_like(flow)
    down[:, :, :-1] = flow[:, :, 1:] - flow[:, :, :-1]
    across[:, :, :, :-1] = flow[:, :, :, 1:] - flow[:, :, :, :-1]
    length = (down.square() + across.square()).sum(dim=1, keepdim=True).add(_TINY).sqrt()
    down, across = down / length, across / length
    gradient = -down - across
    gradient[:, :, 1:] += down[:, :, :-1]
    gradient[:, :, :, 1:] += across[:, :, :, :-1]
    return gradient
