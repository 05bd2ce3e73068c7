"""`pgd`: projected gradient descent (Madry et al., ICLR 2018, arXiv 1706.06083)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iqarena.attacks.descent import GradientDescent


@dataclass(frozen=True)
class PGD(GradientDescent):
    """Projected steps along the gradient's sign (l2: along the gradient) from a random start; returns the best iterate."""

    name: ClassVar[str] = "pgd"
    paper: ClassVar[str] = "https://arxiv.org/abs/1706.06083"
