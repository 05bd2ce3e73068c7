"""`i-fgsm`: iterative FGSM, or the basic iterative method (Kurakin, Goodfellow, Bengio, 2017, arXiv 1607.02533)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iqarena.attacks.descent import GradientDescent


@dataclass(frozen=True)
class IFGSM(GradientDescent):
    """Projected steps along the gradient's sign (l2: along the gradient) from the clean image; returns the best iterate.

    `pgd` without the random start.
    """

    name: ClassVar[str] = "i-fgsm"
    paper: ClassVar[str] = "https://arxiv.org/abs/1607.02533"

    random_start: bool = False
