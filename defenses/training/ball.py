"""Base of the training recipes with an inner attack: its ball and its schedule."""

from __future__ import annotations

from dataclasses import dataclass

from iqarena.defenses.base import TrainedDefense

INNER_STEPS = 2


@dataclass(frozen=True)
class InsideABall(TrainedDefense):
    """Base of recipes that train on images from an ℓ∞ ball around each clean image.

    Attributes:
        epsilon: size of the ball, reached linearly over the first part of the training.
        ramp: fraction of the training over which the ball grows.
    """

    epsilon: float = 2 / 255
    ramp: float = 0.3

    def __post_init__(self) -> None:
        if not (0 < self.epsilon <= 1 and 0 < self.ramp <= 1):
            raise ValueError(f"{self.name}: epsilon and ramp must be in (0, 1]")

    def ball(self, progress: float) -> float:
        """Return the size of the ball at a progress from 0 to 1."""
        return self.epsilon * min(1.0, (progress + 0.01) / self.ramp)

    def refuse_negative(self, **weights: float) -> None:
        """Check that parameters are not negative.

        Raises:
            ValueError: for the first parameter that is below 0.
        """
        for name, value in weights.items():
            if not value >= 0:
                raise ValueError(f"{self.name}: {name} must not be negative")
