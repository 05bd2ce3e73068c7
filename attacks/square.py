"""`square`: score-based random search with squares (Andriushchenko et al., ECCV 2020, arXiv 1912.00049)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.score import STARTS, ScoreAttack, ends, keep, signs_in_blocks, windows
from iqarena.attacks.threat import Norm, Threat

_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""The schedule of the paper: the fraction of changed pixels is halved after these fractions of all queries."""

Index = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Square(ScoreAttack):
    """An initial pattern of ±ε, then squares of ±ε at random positions, kept if the objective improves.

    The paper starts from vertical stripes. Quality models are most sensitive to the scale of a texture, and the best scale
    depends on the model and the direction, so the first queries also try random signs in blocks of several sizes.
    For l2, the l2 variant of the paper: tiles of bumps, then the perturbation budget of one square is moved to another.

    Attributes:
        queries: forward passes per image, at least 1; fewer if the query limit is lower.
        share: fraction of the pixels in the first squares, in (0, 1]; it is halved nine times during the search.
        squares: number of squares changed per query; for linf.
    """

    name: ClassVar[str] = "square"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "https://arxiv.org/abs/1912.00049"
    starts: ClassVar[tuple[tuple[int, int], ...]] = STARTS
    """Rows and columns of the blocks of the initial patterns; 0 is the whole side."""

    share: float = 0.1
    squares: int = 1

    def __post_init__(self) -> None:
        if self.queries < 1 or self.squares < 1 or not 0 < self.share <= 1:
            raise ValueError(f"{self.name}: queries and squares must be at least 1 and share in (0, 1]")

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        queries = self.allowed(target)
        if queries < 1:
            return images
        search = self._linf if threat.norm == "linf" else self._l2
        attacked, losses = search(target, images, objective, threat, generator, queries)
        better = losses < objective.loss(objective.clean)
        return torch.where(better.view(-1, 1, 1, 1), attacked, images)

    def _linf(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators, queries: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        channels, height, width = images.shape[1:]
        low, high = ends(images, threat)
        # losses start at infinity: the search may leave the clean image for a worse one
        current, losses = images.clone(), torch.full_like(objective.clean, math.inf)
        tried = self.starts[:queries]
        for rows, columns in tried:
            signs = signs_in_blocks(images, (rows or height, columns or width), generator)
            pattern = torch.where(signs > 0, high, low)
            keep(current, losses, pattern, objective.loss(target.quality(pattern)))
        queries -= len(tried)
        for query in range(queries):
            side = min(max(round(math.sqrt(self.share / 2 ** halvings(query / queries) * height * width)), 1), height, width)
            draws = generator.uniform(0, 1, (self.squares, 2 + channels)).to(images)
            replaced = []
            for draw in draws.unbind(1):
                at = drawn_window(draw, side, images)
                replaced.append((at, current[at]))
                current[at] = torch.where(draw[:, 2:, None, None] < 0.5, low[at], high[at])
            seen = objective.loss(target.quality(current))
            better = (seen < losses).view(-1, 1, 1, 1)
            losses = torch.where(better.flatten(), seen, losses)
            for at, before in reversed(replaced):
                current[at] = torch.where(better, current[at], before)
        return current, losses

    def _l2(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators, queries: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        channels, height, width = images.shape[1:]
        start, most = (images * 255).round(), (threat.size * 255) ** 2 * (1 - 1e-6)
        tile = max(min(height, width) // 5, 1)
        bumps = _bump(tile, tile).to(images).repeat(-(-height // tile), -(-width // tile))[:height, :width]
        tiles = bumps * signs_in_blocks(images, (tile, tile), generator)
        tiles = tiles * (threat.size / tiles.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
        current = threat.snap(threat.project(images + tiles, images), images)
        losses = objective.loss(target.quality(current))
        # in whole levels, so that queries are 8-bit images and the length is known without a pass over all pixels
        levels = (current * 255).round() - start
        square = levels.flatten(1).square().sum(dim=1)
        for query in range(queries - 1):
            side = round(math.sqrt(self.share / 2 ** halvings(query / queries) * height * width))
            side = min(max(side + (side % 2 == 0), 3), height, width)
            draw = generator.uniform(0, 1, (5 + channels,)).to(images)
            to, source = drawn_window(draw, side, images), drawn_window(draw[:, 2:], side, images)
            old_to, old_source = levels[to], levels[source]
            levels[source] = 0
            freed = (levels[to].square() + old_source.square()).sum(dim=(2, 3), keepdim=True)
            bump = torch.cat([_bump(side // 2, side), -_bump(side - side // 2, side)]).to(images)
            bump = bump / bump.norm()
            bump = torch.where(draw[:, 4].view(-1, 1, 1) < 0.5, bump, bump.T)[:, None]
            aim = bump * (draw[:, 5:, None, None] - 0.5).sign() + _unit(old_to)
            lengths = ((most - square).clamp(min=0).view(-1, 1, 1, 1) / channels + freed).sqrt()
            aim = _unit(aim) * lengths
            base = start[to]
            rounded = (base + aim.round()).clamp(0, 255) - base
            rest = square - freed.sum(dim=(1, 2, 3))
            over = rest + rounded.square().sum(dim=(1, 2, 3)) > most
            moved = torch.where(over.view(-1, 1, 1, 1), (base + aim.trunc()).clamp(0, 255) - base, rounded)
            levels[to] = moved
            current[source] = images[source]
            current[to] = (base + moved) / 255
            seen = objective.loss(target.quality(current))
            better = seen < losses
            losses = torch.where(better, seen, losses)
            square = torch.where(better, rest + moved.square().sum(dim=(1, 2, 3)), square)
            kept = better.view(-1, 1, 1, 1)
            for at, before in ((to, old_to), (source, old_source)):
                levels[at] = torch.where(kept, levels[at], before)
                current[at] = (start[at] + levels[at]) / 255
        return current, losses


def halvings(done: float) -> int:
    """Return the number of halvings of the fraction of changed pixels after a fraction of all queries."""
    return sum(done > bound for bound in _HALVINGS)


def drawn_window(draw: torch.Tensor, side: int, images: torch.Tensor) -> Index:
    """Return an index to one square per image; its corner is given by the first two columns of `draw`, uniform in [0, 1)."""
    channels, height, width = images.shape[1:]
    top = (draw[:, 0] * (height - side + 1)).long().clamp(max=height - side)
    left = (draw[:, 1] * (width - side + 1)).long().clamp(max=width - side)
    return windows(top, left, side, channels)


def _unit(squares: torch.Tensor) -> torch.Tensor:
    """Scale each channel to unit length; zero stays zero."""
    lengths: torch.Tensor = squares.flatten(2).norm(dim=2)
    return squares / lengths.clamp(min=1e-10)[..., None, None]


def _bump(height: int, width: int) -> torch.Tensor:
    """Return the paper's η before scaling: Σ 1/j² over j starting at the Chebyshev distance of a pixel from the centre."""
    rows = (torch.arange(height) - height // 2).abs()[:, None]
    columns = (torch.arange(width) - width // 2).abs()[None, :]
    longest = max(height, width) // 2 + 1
    sums = torch.cat([(1 / torch.arange(1, longest + 1).double() ** 2).flip(0).cumsum(0).flip(0), torch.zeros(1)])
    return sums[torch.maximum(rows, columns)].float()
