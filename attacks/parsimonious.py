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
from iqarena.attacks.score import STARTS, ScoreAttack, ends, keep, permutations, signs_in_blocks
from iqarena.attacks.threat import Norm, Threat

Block = tuple[int, slice, slice]
"""A channel, rows and columns."""


@dataclass(frozen=True)
class Parsimonious(ScoreAttack):
    """Lazy greedy search that flips blocks between −ε and +ε; the side of the blocks is halved in every round.

    The paper starts with all values at −ε; here the search starts from the best of that and the initial patterns of
    `square`, and a flip changes the sign of every value in a block.

    In mini-batches in random order, the gain of flipping each block is evaluated and the block of largest gain is flipped;
    an outdated gain is evaluated again only when it reaches the top of the queue.

    Attributes:
        queries: forward passes per image, at least 1; fewer if the query limit is lower.
        block: side of the first blocks in pixels; it is halved down to 1.
        batch: number of blocks in the queue.
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
        current, current_losses = low.clone(), torch.full_like(objective.clean, math.inf)
        queries = self.allowed(target)
        starts: list[torch.Tensor] = [up.clone()]
        starts += [
            signs_in_blocks(images, (rows or height, columns or width), generator).cpu() > 0 for rows, columns in STARTS
        ]
        for start in starts[:queries]:
            pattern = torch.where(start.to(images.device), high, low)
            better = keep(current, current_losses, pattern, objective.loss(target.quality(pattern))).cpu()
            up[better] = start[better]

        def flip(image: int, block: Block) -> None:
            at = (image, *block)
            state = ~up[at]
            up[at] = state
            current[at] = torch.where(state.to(current.device), high[at], low[at])

        clean = objective.loss(objective.clean)
        best = torch.where((current_losses < clean).view(-1, 1, 1, 1), current, images)
        losses = torch.fmin(current_losses, clean)
        searches = {
            i: self._search(up[i], loss, partial(flip, i), generator.part([i]))
            for i, loss in enumerate(current_losses.tolist())
        }
        for search in searches.values():
            next(search)
        for _ in range(queries - len(starts)):
            seen = objective.loss(target.quality(current))
            keep(best, losses, current, seen)
            loss_values = seen.tolist()
            for image, search in list(searches.items()):
                try:
                    search.send(loss_values[image])
                except StopIteration:
                    del searches[image]
            if not searches:
                break
        return best

    def _search(
        self, up: torch.Tensor, current_loss: float, flip: Callable[[Block], None], generator: Generators
    ) -> Coroutine[None, float, None]:
        """Search in one image: change it, yield, receive its loss; ends when no flip of a single value helps."""
        side = self.block
        while True:
            before = current_loss
            blocks = _blocks(tuple(up.shape), side)
            blocks = [blocks[i] for i in permutations(len(blocks), generator)[0].tolist()]
            for start in range(0, len(blocks), self.batch):
                for state in (False, True):  # from −ε to +ε, then back
                    batch = [
                        (channel, rows, columns)
                        for channel, rows, columns in blocks[start : start + self.batch]
                        if bool(up[channel, rows.start, columns.start]) == state
                    ]
                    current_loss = yield from _greedy(batch, current_loss, flip)
            if side > 1:
                side //= 2
            elif not current_loss < before:
                return


def _greedy(batch: list[Block], current_loss: float, flip: Callable[[Block], None]) -> Coroutine[None, float, float]:
    """Flip blocks in order of decreasing gain; returns the final loss."""
    queue = []
    for index, block in enumerate(batch):
        flip(block)
        queue.append(((yield) - current_loss, index))
        flip(block)
    heapq.heapify(queue)
    fresh = True  # no block has been flipped since the gain of the first in the queue was evaluated
    while queue and queue[0][0] < 0:
        change, index = heapq.heappop(queue)
        flip(batch[index])
        if not fresh:
            change = (yield) - current_loss
        if change < 0 and (not queue or change <= queue[0][0]):
            current_loss, fresh = current_loss + change, False
            continue
        flip(batch[index])
        if change < 0:
            heapq.heappush(queue, (change, index))
    return current_loss


def _blocks(shape: tuple[int, ...], side: int) -> list[Block]:
    channels, height, width = shape
    return [
        (channel, slice(top, top + side), slice(left, left + side))
        for channel in range(channels)
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]
