"""`fgsm`: the fast gradient sign method (Goodfellow, Shlens, Szegedy, ICLR 2015, arXiv 1412.6572)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iqarena.attacks.descent import GradientDescent


@dataclass(frozen=True)
class FGSM(GradientDescent):
    """One step to the edge of the ball along the gradient's sign (l2: along the gradient), from the clean image."""

    name: ClassVar[str] = "fgsm"
    paper: ClassVar[str] = "https://arxiv.org/abs/1412.6572"

    steps: int = 1
    step_size: float = 1.0
    random_start: bool = False
