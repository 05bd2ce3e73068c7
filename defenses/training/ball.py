"""What recipes with an inner attack share: the ball that it moves in."""

from __future__ import annotations

from dataclasses import dataclass

from iqarena.defenses.base import TrainedDefense

INNER_STEPS = 2


@dataclass(frozen=True)
class InsideABall(TrainedDefense):
    """Base of recipes that train on images from an ℓ∞ ball around each clean one.

    Attributes:
        epsilon: the ball, reached linearly over the first `ramp` of the training.
        ramp: that share.
    """

    epsilon: float = 2 / 255
    ramp: float = 0.3

    def __post_init__(self) -> None:
        if not (0 < self.epsilon <= 1 and 0 < self.ramp <= 1):
            raise ValueError(f"{self.name}: epsilon and ramp must be in (0, 1]")

    def ball(self, progress: float) -> float:
        """The size of the ball at a share of the training."""
        return self.epsilon * min(1.0, (progress + 0.01) / self.ramp)

    def refuse_negative(self, **weights: float) -> None:
        """Raises ValueError for the first of these parameters that is below 0."""
        for name, value in weights.items():
            if not value >= 0:
                raise ValueError(f"{self.name}: {name} must not be negative")
