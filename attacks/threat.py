"""The threat model: the set of perturbations allowed around a clean image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch.nn import functional

from iqarena.attacks.similarity import WINDOW, ssim

Norm = Literal["linf", "l2", "l0", "patch", "ssim"]

_SHORTENINGS, _FIRST_MARGIN = 60, 0.998
"""Shortenings by 2 % each, enough to shorten a perturbation to a third; and the margin of the first one, which usually
suffices."""
_HALVINGS = 12
"""Bisection steps that find the largest fraction of a perturbation that is still inside."""


@dataclass(frozen=True)
class Threat:
    """The allowed perturbations of a clean image, and a limit on the number of queries to the model.

    Attributes:
        norm: distance between the attacked and the clean image:
            "linf"   largest change of a channel of a pixel, in units of [0, 1]
            "l2"     Euclidean length of the change of the whole image, in units of [0, 1]
            "l0"     fraction of pixels with any change
            "patch"  fraction of the image area covered by the smallest square around all changes
            "ssim"   1 − SSIM of the luma
        size: the maximum distance; 0.00784 is 2/255.
        queries: maximum number of forward passes per image that an attack may use; None for no limit.

    Raises:
        ValueError: for an unknown norm, a size that is not in (0, 1] (for l2: not positive) or a limit below 0.
    """

    norm: Norm = "linf"
    size: float = 2 / 255
    queries: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm {self.norm!r} is not one of {', '.join(get_args(Norm))}")
        if not (math.isfinite(self.size) and self.size > 0 and (self.norm == "l2" or self.size <= 1)):
            raise ValueError(f"eps {self.size:g} is outside (0, 1]; it is in pixel units of [0, 1], such as 2/255")
        if self.queries is not None and self.queries < 0:
            raise ValueError(f"a query limit of {self.queries} is invalid; give at least 1 or leave it out")

    def refusal(self, height: int, width: int) -> str:
        """Return the reason why no image of this size can be attacked under this threat model; empty if it can."""
        if self.queries == 0:
            return "a query limit of 0 allows no attack"
        if self.norm in ("l0", "patch") and self.pixels(height, width) < 1:
            return f"{self.norm} ≤ {self.size:g} allows no whole pixel of {width}×{height}"
        if self.norm == "ssim" and min(height, width) < WINDOW:
            return f"SSIM needs {WINDOW}×{WINDOW}, not {width}×{height}"
        return ""

    def pixels(self, height: int, width: int) -> int:
        """Return the number of pixels that may change, for l0 and patch."""
        return math.floor(self.size * height * width * (1 + 1e-9))

    def side(self, height: int, width: int) -> int:
        """Return the side of the largest square patch that is allowed."""
        return min(math.isqrt(self.pixels(height, width)), height, width)

    def project(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Project images into the threat model and into [0, 1]; all images are (N, 3, H, W).

        linf: the nearest image. l2: the perturbation is scaled, then clipped to [0, 1], which keeps it inside the ball. l0:
        the pixels that changed most are kept. patch: the square with most of the change is kept. ssim: the perturbation is
        scaled until it fits.

        Example:
            >>> clean = torch.full((1, 3, 2, 2), 0.5)
            >>> Threat("linf", 2 / 255).project(clean + 0.1, clean).sub(clean).mul(255).amax().round().item()
            2.0
        """
        if self.norm == "linf":
            return images.clamp(*self.ends(clean))
        return self._project_shift(images - clean, clean)

    def _project_shift(self, shift: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Project images given by their perturbation, for all norms but linf; in place, as it runs at every attack step."""
        if self.norm == "ssim":
            return self._largest_share(lambda share: (clean + share * shift).clamp(0, 1), clean)
        if self.norm == "l2":
            length = shift.flatten(1).norm(dim=1).clamp(min=1e-12)
            share = (self.size / length).clamp(max=1)
            return torch.addcmul(clean, shift, share.view(-1, 1, 1, 1), out=shift).clamp_(0, 1)
        if self.norm == "l0":
            shift.mul_(self._most_changed(shift))
        else:
            shift.mul_(self._most_changed_square(shift))
        return shift.add_(clean).clamp_(0, 1)

    def snap(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Round images to the 8-bit grid inside the threat model of the (8-bit) clean images.

        For linf, to the nearest grid value inside the ball. For l2 and ssim, the perturbation is shortened until its rounded
        values are inside: rounding every value toward the clean image would waste much of the ball. For l0 and patch,
        `images` must be inside.

        Example:
            >>> clean = torch.full((1, 3, 2, 2), 100 / 255)
            >>> Threat("linf", 2 / 255).snap(clean + 1.6 / 255, clean).mul(255)[0, 0, 0, 0].round(decimals=3).item()
            102.0
        """
        if self.norm == "linf":
            return _on_grid(images, *self.end_levels(clean))
        if self.norm == "ssim":
            start, shift = (clean * 255).round(), (images - clean).mul_(255)
            return self._largest_share(lambda share: ((start + (share * shift).round()) / 255).clamp(0, 1), clean)
        # 255 · clean is whole up to a rounding error, which the rounding removes
        return self._snapped_levels(images, clean).add_(clean, alpha=255).round_().div_(255).clamp_(0, 1)

    def _snapped_levels(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Return the perturbations of `snap` in levels, for l2, l0 and patch."""
        shift = (images - clean).mul_(255)
        if self.norm != "l2":
            return shift.round_()
        steps, length = shift.round(), self.size * 255
        for attempt in range(_SHORTENINGS):
            over, norms = _longer(steps, length)
            if not over.any():
                return steps
            # first by what rounding has added and a small margin, which usually suffices; then by at least 2 %
            share = (length / norms * _FIRST_MARGIN).clamp(max=_FIRST_MARGIN if attempt == 0 else 0.98)
            shift.mul_(torch.where(over, share, 1.0).view(-1, 1, 1, 1))
            torch.round(shift, out=steps)
        return self.whole_levels(self.project(clean + shift / 255, clean) * 255 - clean * 255, clean)

    def ends(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the darkest and the brightest image of an ℓ∞ ball, inside [0, 1]."""
        return (clean - self.size).clamp_(min=0), (clean + self.size).clamp_(max=1)

    def end_levels(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the darkest and the brightest 8-bit image of an ℓ∞ ball, in levels from 0 to 255."""
        levels = (clean * 255).round_()
        reach = math.floor(self.size * 255 * (1 + 1e-9))
        return (levels - reach).clamp_(min=0), levels.add_(reach).clamp_(max=255)

    def whole_levels(self, shift: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Truncate perturbations (N, 3, H, W) inside the ball, in levels of 1/255, to whole levels; they stay inside.

        In float32, 1.9999 levels may stand for 2, so a small tolerance is added first, except where that leaves the ball.
        """

        def truncated(part: torch.Tensor) -> torch.Tensor:
            return (part + 1e-4 * shift.sign()).trunc()

        if self.norm == "ssim":
            start = (clean * 255).round()
            stored = self._largest_share(lambda share: ((start + truncated(share * shift)) / 255).clamp(0, 1), clean)
            return (stored * 255).round() - start
        loose, strict = truncated(shift), (shift * (1 - 1e-4)).trunc()
        if self.norm in ("l0", "patch"):
            return loose
        inside = _length(loose.double(), self.norm) <= self.size * 255 * (1 + 1e-9)
        return torch.where(inside.view(-1, 1, 1, 1), loose, strict)

    def distance(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Return the distance (N,) of each image from its clean image in the threat model's norm."""
        if self.norm == "ssim":
            return 1 - ssim(images.double(), clean.double()).to(images.dtype)
        return _length(images - clean, self.norm)

    def holds(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Check whether each image is inside the threat model and [0, 1], up to float32 rounding, (N,) bool."""
        inside = self.distance(images, clean) <= self.size * (1 + 1e-4) + 1e-6
        return inside & (images.flatten(1).amin(dim=1) >= -1e-6) & (images.flatten(1).amax(dim=1) <= 1 + 1e-6)

    def _most_changed(self, shift: torch.Tensor) -> torch.Tensor:
        """Return the mask (N, 1, H, W) of the pixels with the largest change, as many as may change."""
        height, width = shift.shape[2:]
        change = shift.square().sum(dim=1).flatten(1)
        kept = change.topk(min(self.pixels(height, width), height * width), dim=1).indices
        return torch.zeros_like(change).scatter(1, kept, 1).view(-1, 1, height, width)

    def _most_changed_square(self, shift: torch.Tensor) -> torch.Tensor:
        """Return the mask (N, 1, H, W) of the allowed square that contains the most change."""
        height, width = shift.shape[2:]
        side = self.side(height, width)
        if side < 1:
            return torch.zeros_like(shift[:, :1])
        energy = functional.avg_pool2d(shift.double().square().sum(dim=1, keepdim=True), side, stride=1)
        index = energy.flatten(1).argmax(dim=1)
        top, left = index // energy.shape[3], index % energy.shape[3]
        return square(top, left, side, height, width).to(shift)

    def _largest_share(self, image: Callable[[torch.Tensor], torch.Tensor], clean: torch.Tensor) -> torch.Tensor:
        """Return ``image(share)`` for the largest share (N, 1, 1, 1) in [0, 1] that is inside; 0 is the clean image."""
        low, high = clean.new_zeros(len(clean), 1, 1, 1), clean.new_ones(len(clean), 1, 1, 1)
        candidate = image(high)
        if self._inside(candidate, clean).all():
            return candidate
        low = torch.where(self._inside(candidate, clean).view(-1, 1, 1, 1), high, low)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            inside = self._inside(image(middle), clean).view(-1, 1, 1, 1)
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        return image(low)

    def _inside(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        # a small margin, since the verification may compute SSIM in another order of operations
        return 1 - ssim(images.double(), clean.double()) <= self.size - 1e-6


class Ball:
    """The threat model around given 8-bit images (N, 3, H, W), with cached bounds, for use at every step of an attack."""

    def __init__(self, threat: Threat, clean: torch.Tensor) -> None:
        self.threat, self.clean = threat, clean
        self._whole_levels = math.isclose(threat.size * 255, round(threat.size * 255), rel_tol=1e-9)  # levels
        if threat.norm == "linf":
            self._ends, self._end_levels = threat.ends(clean), threat.end_levels(clean)
        elif threat.norm == "l2":
            self._levels = (clean * 255).round_()

    def part(self, mask: torch.Tensor) -> Ball:
        """Return the ball around a subset of the images."""
        return Ball(self.threat, self.clean[mask])

    def project(self, images: torch.Tensor) -> torch.Tensor:
        """Project like `Threat.project`, but in place: allocating memory costs more than the arithmetic."""
        if self.threat.norm == "linf":
            return images.clamp_(*self._ends)
        return self.threat._project_shift(images.sub_(self.clean), self.clean)

    def snap(self, images: torch.Tensor) -> torch.Tensor:
        """Round like `Threat.snap`, for images that are inside; the clean images themselves are on the grid."""
        if images is self.clean:
            return images
        if self.threat.norm == "l2":
            return self.threat._snapped_levels(images, self.clean).add_(self._levels).div_(255)
        if self.threat.norm != "linf":
            return self.threat.snap(images, self.clean)
        if self._whole_levels:  # the bounds are on the grid, so rounding cannot leave the ball
            return (images * 255).round_().div_(255)
        return _on_grid(images, *self._end_levels)


def _on_grid(images: torch.Tensor, least: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """Round images to the 8-bit grid between two bounds given in levels."""
    return (images * 255).round_().clamp_(least, most).div_(255)


def square(top: torch.Tensor, left: torch.Tensor, side: int | torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return boolean masks (N, 1, height, width) of squares with the given top left corners (N,)."""
    rows = torch.arange(height, device=top.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=top.device).view(1, 1, 1, -1)
    side = torch.as_tensor(side, device=top.device).view(-1, 1, 1, 1)
    top, left = top.view(-1, 1, 1, 1), left.view(-1, 1, 1, 1)
    return (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)


def _longer(steps: torch.Tensor, length: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Check whether each perturbation (N, 3, H, W) is longer than `length`, and return its approximate length; both (N,)."""
    norms = _length(steps, "l2")
    if ((norms / length - 1).abs() < 1e-4).any():  # too close for sums in float32; float64 takes three times as long
        return steps.flatten(1).double().norm(dim=1) > length, norms
    return norms > length, norms


def _length(shift: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Return the length (N,) of each perturbation (N, 3, H, W); for linf and l2 in the unit of the perturbation."""
    if norm == "linf":
        return shift.flatten(1).abs().amax(dim=1)
    if norm == "l2":
        euclidean: torch.Tensor = shift.flatten(1).norm(dim=1)
        return euclidean
    changed = (shift != 0).any(dim=1)
    if norm == "l0":
        return changed.flatten(1).to(shift).mean(dim=1)
    extents = []
    for axis in (1, 2):
        changed_lines = changed.any(dim=axis)  # over rows: the columns with a change, and vice versa
        positions = torch.arange(changed_lines.shape[1], device=changed_lines.device).expand_as(changed_lines)
        first = torch.where(changed_lines, positions, changed_lines.shape[1]).amin(dim=1)
        last = torch.where(changed_lines, positions, -1).amax(dim=1)
        extents.append((last - first + 1).clamp(min=0))
    height, width = shift.shape[2:]
    side = torch.maximum(*extents)
    return side.to(shift) ** 2 / (height * width)
