"""`ran`: the bi-directional black-box attack on quality models (Ran, Zhang, Li, Tang, Wang, ESWA 2025, AttackIQA).

From the paper and the authors' published settings: a random search as in `square`, from vertical stripes, two squares a
query, a first share of 0.04 (for LIQE eight and 0.09), 10,000 queries, ε = 3/255, and a direction by the clean score: good
images down, bad ones up. That direction is the objective `away` with its mirror in mid-range. Their map of scores to
[0, 10] by a logistic is monotone and changes nothing in such a search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iqarena.attacks.objective import Kind
from iqarena.attacks.square import Square
from iqarena.attacks.threat import Norm


@dataclass(frozen=True)
class Ran(Square):
    """Vertical stripes of ±ε, then two squares of ±ε at a time; good images are made bad and bad ones good.

    Attributes:
        queries: forward passes an image, at least 1; fewer where the query limit allows no more.
        share: of the pixels in each of the first squares, in (0, 1]; it is halved nine times along the way.
        squares: how many are changed in a query.
    """

    name: ClassVar[str] = "ran"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    objectives: ClassVar[tuple[Kind, ...]] = ("away", "raise", "lower", "reflect", "target")
    paper: ClassVar[str] = "https://doi.org/10.1016/j.eswa.2024.125415"
    starts: ClassVar[tuple[tuple[int, int], ...]] = ((0, 1),)

    share: float = 0.04
    squares: int = 2
