"""`adv-cf`: adversarial colour filter (Zhao, Liu, Larson, TIFS 2023, arXiv 2011.06690).

An earlier version by the same authors is ACE (BMVC 2021, arXiv 2002.01008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.threat import Threat
from iqarena.attacks.transformed import Transformed


@dataclass(frozen=True)
class AdvCF(Transformed):
    """A colour curve per channel, piecewise linear and monotone, the same for all pixels of an image.

    The offsets of the curve at its knots are optimised, each along the mean of the gradient over the pixels near the knot
    (linf: its sign). The paper optimises the slopes of the pieces and normalises the curve, so that black and white are
    fixed; here they may move as well, within the ball.

    Attributes:
        steps: gradient steps; fewer if the query limit is lower.
        step_size: length of the first step as a fraction of the curve that reaches the edge of the ball; it falls linearly
            to 0.
        pieces: number of linear pieces of the curve.
    """

    name: ClassVar[str] = "adv-cf"
    paper: ClassVar[str] = "https://arxiv.org/abs/2011.06690"

    pieces: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pieces < 1:
            raise ValueError(f"{self.name}: pieces must be at least 1")

    def identity(self, images: torch.Tensor) -> torch.Tensor:
        return images.new_zeros(len(images), 3, self.pieces + 1)

    def applied(self, parameters: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        knot, fraction = self._locate(images)
        below, above = parameters.gather(2, knot), parameters.gather(2, knot + 1)
        return (images + (below + fraction * (above - below)).view_as(images)).clamp(0, 1)

    def allowed(self, parameters: torch.Tensor) -> torch.Tensor:
        identity = torch.linspace(0, 1, self.pieces + 1, dtype=parameters.dtype, device=parameters.device)
        return (identity + parameters).cummax(dim=2).values - identity

    def direction(
        self, parameters: torch.Tensor, images: torch.Tensor, gradient: torch.Tensor, threat: Threat
    ) -> torch.Tensor:
        knot, fraction = self._locate(images)
        slope, pixels = torch.zeros_like(parameters), torch.zeros_like(parameters)
        for at, share in ((knot, 1 - fraction), (knot + 1, fraction)):
            slope = slope.scatter_add(2, at, share * gradient.flatten(2))
            pixels = pixels.scatter_add(2, at, share)
        if threat.norm == "linf":
            return -slope.sign()
        mean = slope / pixels.clamp(min=1e-12)
        return -mean / mean.flatten(1).abs().amax(dim=1).clamp(min=1e-20).view(-1, 1, 1)

    def _locate(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the knot below each value, (N, 3, H·W), and the distance of the value from it, in pieces."""
        position = images.flatten(2) * self.pieces
        knot = position.floor().clamp(max=self.pieces - 1)
        return knot.long(), position - knot
