"""`pgd-l2`: projected gradient descent in the Euclidean ball (Madry et al., ICLR 2018, arXiv 1706.06083)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iqarena.attacks.pgd import PGD
from iqarena.attacks.threat import Norm


@dataclass(frozen=True)
class PGDL2(PGD):
    """`pgd` for l2 only: steps of a quarter of the radius along the gradient, from a random point on the ball's edge."""

    name: ClassVar[str] = "pgd-l2"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
