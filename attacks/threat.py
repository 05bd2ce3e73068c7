"""The threat model: how far a picture may be moved, in pixel units of [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

Norm = Literal["linf", "l2"]


_SHORTENINGS = 60
"""By 2 % each: enough to shorten a shift to a third."""


@dataclass(frozen=True)
class Threat:
    """A ball around each clean picture, and a limit on how often the model may be asked.

    Attributes:
        norm: "linf" (largest change of a channel of a pixel) or "l2" (Euclidean length of the change of the picture).
        size: radius in pixel units of [0, 1]; 0.00784 is 2/255.
        queries: forward passes a picture that an attack may use; None is no limit.

    Raises:
        ValueError: for an unknown norm, a size that is not in (0, 1] (for l2: not positive) or a limit below 1.
    """

    norm: Norm = "linf"
    size: float = 2 / 255
    queries: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm {self.norm!r} is not one of {', '.join(get_args(Norm))}")
        if not (math.isfinite(self.size) and self.size > 0 and (self.norm == "l2" or self.size <= 1)):
            raise ValueError(f"eps {self.size:g} is outside (0, 1]; it is in pixel units of [0, 1], such as 2/255")
        if self.queries is not None and self.queries < 1:
            raise ValueError(f"a query limit of {self.queries} allows nothing; give at least 1 or leave it out")

    def project(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The nearest pictures inside the ball and inside [0, 1]; (N, 3, H, W) both.

        For l2 the length is scaled and then clipped to [0, 1], which keeps it inside both.
        """
        shift = images - clean
        if self.norm == "linf":
            shift = shift.clamp(-self.size, self.size)
        else:
            length = shift.flatten(1).norm(dim=1).clamp(min=1e-12)
            shift = shift * (self.size / length).clamp(max=1).view(-1, 1, 1, 1)
        return (clean + shift).clamp(0, 1)

    def snap(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Pictures on the 8-bit grid near `images`, inside the ball of the (8-bit) clean pictures.

        For linf to the nearest grid value inside the ball. For l2 to the nearest values, of a shift that is shortened
        until they are inside: rounding every value toward the clean picture would give much of the ball away.
        """
        shift = (images - clean) * 255
        if self.norm == "linf":
            reach = math.floor(self.size * 255 * (1 + 1e-9))
            steps = shift.round().clamp(-reach, reach)
        else:
            steps, length = shift.round(), self.size * 255
            for _ in range(_SHORTENINGS):
                over = steps.flatten(1).double().norm(dim=1) > length
                if not over.any():
                    break
                shift = torch.where(over.view(-1, 1, 1, 1), 0.98 * shift, shift)
                steps = shift.round()
            else:
                steps = self.whole_levels(self.project(clean + shift / 255, clean) * 255 - clean * 255)
        return (((clean * 255).round() + steps) / 255).clamp(0, 1)

    def whole_levels(self, shift: torch.Tensor) -> torch.Tensor:
        """Shifts (N, 3, H, W) in levels of 1/255, inside the ball, cut to whole levels toward zero; still inside.

        1.9999 levels are 2 in float32's own words, so a hair is added first, but not where that leaves the ball.
        """
        loose, strict = (shift + 1e-4 * shift.sign()).trunc(), (shift * (1 - 1e-4)).trunc()
        inside = self.length(loose.double()) <= self.size * 255 * (1 + 1e-9)
        return torch.where(inside.view(-1, 1, 1, 1), loose, strict)

    def distance(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Distance of each picture in this threat's norm, (N,)."""
        return self.length(images - clean)

    def length(self, shift: torch.Tensor) -> torch.Tensor:
        """Length of each shift (N, 3, H, W) in this threat's norm, (N,), in the shift's own unit."""
        flat = shift.flatten(1)
        return flat.abs().amax(dim=1) if self.norm == "linf" else flat.norm(dim=1)

    def holds(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Whether each picture is inside the ball and [0, 1], up to float32 rounding of its largest values, (N,) bool."""
        inside = self.distance(images, clean) <= self.size * (1 + 1e-4) + 1e-6
        return inside & (images.flatten(1).amin(dim=1) >= -1e-6) & (images.flatten(1).amax(dim=1) <= 1 + 1e-6)
