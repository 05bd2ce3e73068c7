"""`ran`: the bi-directional black-box attack on quality models (Ran, Zhang, Li, Tang, Wang, ESWA 2025, AttackIQA).

From the paper and the authors' published settings: a random search as in `square`, from vertical stripes, with two squares
per query and an initial fraction of 0.04 (eight squares and 0.09 for LIQE), 10,000 queries, ε = 3/255, and a direction that
depends on the clean score: good images down, bad ones up. That is the objective `away` with its mirror at mid-range. The
paper maps scores to [0, 10] by a logistic function, which is monotone and does not affect the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iqarena.attacks.objective import Kind
from iqarena.attacks.square import Square
from iqarena.attacks.threat import Norm


@dataclass(frozen=True)
class Ran(Square):
    """Vertical stripes of ±ε, then two squares of ±ε per query; lowers the score of good images and raises that of bad ones.

    Attributes:
        queries: forward passes per image, at least 1; fewer if the query limit is lower.
        share: fraction of the pixels in each of the first squares, in (0, 1]; it is halved nine times during the search.
        squares: number of squares changed per query.
    """

    name: ClassVar[str] = "ran"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    objectives: ClassVar[tuple[Kind, ...]] = ("away", "raise", "lower", "reflect", "target")
    paper: ClassVar[str] = "https://doi.org/10.1016/j.eswa.2024.125415"
    starts: ClassVar[tuple[tuple[int, int], ...]] = ((0, 1),)

    share: float = 0.04
    squares: int = 2
