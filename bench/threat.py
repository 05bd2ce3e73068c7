"""The judge of attacked pictures: what is stored is 8-bit, and only what is stored is verified and scored."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attacks.threat import Threat


@dataclass(frozen=True)
class Stored:
    """Attacked pictures as stored, with what an attack's own output was like.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        left_ball: (N,) bool; the attack's own output was outside the threat model, and was projected back.
        not_finite: (N,) bool; it held NaN or infinities, and the clean picture was stored in its place.
    """

    pixels: torch.Tensor
    left_ball: torch.Tensor
    not_finite: torch.Tensor


def store(attacked: torch.Tensor, clean: torch.Tensor, threat: Threat) -> Stored:
    """Project an attack's output, round it to 8 bit toward the clean picture.

    Args:
        attacked: what the attack returned, (N, 3, H, W) in [0, 1].
        clean: the clean pictures' pixels, the same shape, uint8.
        threat: the threat model.
    """
    start = clean.float() / 255
    not_finite = ~torch.isfinite(attacked).flatten(1).all(dim=1)
    attacked = torch.where(not_finite.view(-1, 1, 1, 1), start, attacked.float())
    left_ball = ~threat.holds(attacked, start)
    shift = (threat.project(attacked, start) - start) * 255
    pixels = (clean.float() + threat.whole_levels(shift)).clamp(0, 255).to(torch.uint8)
    return Stored(pixels, left_ball, not_finite)


def verified(pixels: torch.Tensor, clean: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Whether each stored picture is inside the threat model, from its pixels alone, in float64; (N,) bool."""
    shift = (pixels.double() - clean.double()).flatten(1) / 255
    distance = shift.abs().amax(dim=1) if threat.norm == "linf" else shift.norm(dim=1)
    return distance <= threat.size * (1 + 1e-9)
