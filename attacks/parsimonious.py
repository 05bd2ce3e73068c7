"""`parsimonious`: local search over blocks of ±ε (Moon, An, Song, ICML 2019, arXiv 1905.06635)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from collections.abc import Generator as Coroutine
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.score import STARTS, ScoreAttack, ends, keep, orders, signs_in_blocks
from iqarena.attacks.threat import Norm, Threat

Block = tuple[int, slice, slice]
"""A channel, rows and columns."""


@dataclass(frozen=True)
class Parsimonious(ScoreAttack):
    """Blocks go from −ε over to +ε and back by lazy greedy search, in blocks of half the side at every round.

    The paper starts with all at −ε; here the best of that and of the first patterns of `square` is the start, and what is
    flipped is the sign of every value in a block.

    In mini-batches in random order, the gain of every block's change is asked for and the largest is taken; a gain that
    has since grown old is asked for again only when it comes to the top of the queue.

    Attributes:
        queries: forward passes an image, at least 1; fewer where the query limit allows no more.
        block: side of the first blocks in pixels; it is halved down to 1.
        batch: blocks in a queue.
    """

    name: ClassVar[str] = "parsimonious"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1905.06635"

    block: int = 32
    batch: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 1 or self.block & (self.block - 1) or self.batch < 1:
            raise ValueError(f"{self.name}: batch must be at least 1 and block a power of two (1, 2, 4, …)")

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        low, high = ends(images, threat)
        height, width = images.shape[2:]
        up = torch.zeros(images.shape, dtype=torch.bool)
        current, standing = low.clone(), torch.full_like(objective.clean, math.inf)
        queries = self.allowed(target)
        starts: list[torch.Tensor] = [up.clone()]
        starts += [
            signs_in_blocks(images, (rows or height, columns or width), generator).cpu() > 0 for rows, columns in STARTS
        ]
        for start in starts[:queries]:
            pattern = torch.where(start.to(images.device), high, low)
            better = keep(current, standing, pattern, objective.loss(target.quality(pattern))).cpu()
            up[better] = start[better]

        def flip(image: int, block: Block) -> None:
            at = (image, *block)
            state = ~up[at]
            up[at] = state
            current[at] = torch.where(state.to(current.device), high[at], low[at])

        clean = objective.loss(objective.clean)
        best, losses = torch.where((standing < clean).view(-1, 1, 1, 1), current, images), torch.fmin(standing, clean)
        searches = {
            i: self._search(up[i], loss, partial(flip, i), generator.part([i])) for i, loss in enumerate(standing.tolist())
        }
        for search in searches.values():
            next(search)
        for _ in range(queries - len(starts)):
            seen = objective.loss(target.quality(current))
            keep(best, losses, current, seen)
            told = seen.tolist()
            for image, search in list(searches.items()):
                try:
                    search.send(told[image])
                except StopIteration:
                    del searches[image]
            if not searches:
                break
        return best

    def _search(
        self, up: torch.Tensor, standing: float, flip: Callable[[Block], None], generator: Generators
    ) -> Coroutine[None, float, None]:
        """The search in one image: changes it, yields, and is sent the loss; ends where no single value's flip helps."""
        side = self.block
        while True:
            before = standing
            blocks = _blocks(tuple(up.shape), side)
            blocks = [blocks[i] for i in orders(len(blocks), generator)[0].tolist()]
            for start in range(0, len(blocks), self.batch):
                for state in (False, True):  # over to +ε, then back to −ε
                    batch = [
                        (channel, rows, columns)
                        for channel, rows, columns in blocks[start : start + self.batch]
                        if bool(up[channel, rows.start, columns.start]) == state
                    ]
                    standing = yield from _greedy(batch, standing, flip)
            if side > 1:
                side //= 2
            elif not standing < before:
                return


def _greedy(batch: list[Block], standing: float, flip: Callable[[Block], None]) -> Coroutine[None, float, float]:
    """Flips blocks, the one of most gain first; returns the loss in the end."""
    queue = []
    for place, block in enumerate(batch):
        flip(block)
        queue.append(((yield) - standing, place))
        flip(block)
    heapq.heapify(queue)
    fresh = True  # nothing has been flipped since the first of the queue was asked about
    while queue and queue[0][0] < 0:
        change, place = heapq.heappop(queue)
        flip(batch[place])
        if not fresh:
            change = (yield) - standing
        if change < 0 and (not queue or change <= queue[0][0]):
            standing, fresh = standing + change, False
            continue
        flip(batch[place])
        if change < 0:
            heapq.heappush(queue, (change, place))
    return standing


def _blocks(shape: tuple[int, ...], side: int) -> list[Block]:
    channels, height, width = shape
    return [
        (channel, slice(top, top + side), slice(left, left + side))
        for channel in range(channels)
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]
