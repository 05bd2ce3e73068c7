"""`score-boundary`: black-box attack over successive score boundaries (Yang, Liu, Li, Jiang, arXiv 2401.05217).

From the paper and the authors' published settings: an image has to cross a boundary, first 1/100 of the range away from
its clean score in the direction of the attack. Random changes are tried: high-frequency texture at a random amplitude and
sign, only where the eye hides it (at edges and salient places, below the just noticeable difference), until one crosses. If
200 do not, the boundary is moved half way back; if one goes three times as far, the boundary is moved half way after it.
Then the change is made smaller without coming back over the boundary (bisection, then steps along a circle as in SurFree,
with low-frequency cosines); the result is where the next boundary is attacked from, which lies as much further away as the
last one did.

Our reading: the ball of the threat model takes the place of the just noticeable difference; random signs in blocks of 1 to 8
pixels that of crops of two high-frequency images; a Sobel filter that of Canny edges, and squares of random side and place
that of the saliency map. Boundaries are in units of the objective's loss, so that every objective can be followed, and the
next one lies beyond what has been reached. The authors spend 100 queries on making a change smaller; inside a ball, where
only the room that is left counts, a few do.
"""

from __future__ import annotations

import math
from collections.abc import Generator as Coroutine
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.score import ScoreAttack, keep, signs_in_blocks
from iqarena.attacks.similarity import luma
from iqarena.attacks.threat import Norm, Threat, square

_TEXTURES = (1, 2, 4, 8)
"""Sides of the blocks of a texture, in pixels."""
_LEAST = 1e-5
"""Distance of two boundaries, in units of loss, that is not halved any more."""
_ANGLE = math.radians(30)
"""First angle of a step along the circle."""


@dataclass(frozen=True)
class ScoreBoundary(ScoreAttack):
    """Textures at edges that cross one score boundary after the other, each change being shrunk before the next.

    Attributes:
        queries: forward passes an image, at least 1; fewer where the query limit allows no more.
        boundary: the first boundary's distance from the clean loss.
        tries: random changes before the boundary is moved back.
        halvings: queries of the bisection that shrinks a change.
        turns: steps along the circle that shrink it further.
        edges: share of the pixels, those of the strongest edges, that change; 1 for all.
    """

    name: ClassVar[str] = "score-boundary"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "https://arxiv.org/abs/2401.05217"

    boundary: float = 0.01
    tries: int = 20
    halvings: int = 3
    turns: int = 3
    edges: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tries < 1 or min(self.halvings, self.turns) < 0 or not self.boundary > 0 or not 0 < self.edges <= 1:
            raise ValueError(
                f"{self.name}: tries must be at least 1, halvings and turns not below 0, boundary above 0, edges in (0, 1]"
            )

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        best, losses = images.clone(), objective.loss(objective.clean).clone()
        queries = self.allowed(target)
        if queries < 1:
            return images
        searches = [
            self._search(images[i : i + 1], clean, threat, generator.part([i])) for i, clean in enumerate(losses.tolist())
        ]
        asked = torch.cat([next(search) for search in searches])
        for _ in range(queries):
            seen = objective.loss(target.quality(asked))
            keep(best, losses, asked, seen)
            told = zip(searches, seen.tolist(), strict=True)
            asked = torch.cat([search.send(loss) for search, loss in told])
        return best

    def _search(
        self, image: torch.Tensor, clean: float, threat: Threat, generator: Generators
    ) -> Coroutine[torch.Tensor, float, None]:
        """Yields images (1, 3, H, W) of one image's search and is sent their losses; never ends."""
        mask = _strongest_edges(image, self.edges)
        start, crossed, step = image, 0.0, self.boundary
        while True:
            found, gain = start, -math.inf
            for _ in range(self.tries):
                found = stored(start + self._texture(image, threat, generator) * mask, image, threat)
                gain = clean - (yield found)
                if gain > crossed + step:
                    break
            else:
                step = max(step / 2, _LEAST)
                continue
            if gain > crossed + 3 * step:
                step *= 2
            start, crossed = yield from self._shrink(start, found, gain, crossed + step, clean, image, threat, generator)

    def _texture(self, image: torch.Tensor, threat: Threat, generator: Generators) -> torch.Tensor:
        """Random signs in blocks, of a random amplitude, in a square of a random side at a random place."""
        height, width = image.shape[2:]
        amplitude, choice, extent, top, left = generator.uniform(0, 1, (5,))[0].tolist()
        block = _TEXTURES[int(choice * len(_TEXTURES))]
        side = max(round(max(height, width) * 2 ** (-5 * extent)), 1)
        place = torch.tensor([[int(top * (height + side)) - side], [int(left * (width + side)) - side]], device=image.device)
        length = 2.0 if threat.norm == "linf" else 8.0 / math.sqrt(image.numel())
        signs = signs_in_blocks(image, (block, block), generator)
        inside = square(place[0], place[1], side, height, width)
        texture: torch.Tensor = signs * inside * (amplitude * length * threat.size)
        return texture

    def _shrink(
        self,
        start: torch.Tensor,
        found: torch.Tensor,
        gain: float,
        least: float,
        clean: float,
        image: torch.Tensor,
        threat: Threat,
        generator: Generators,
    ) -> Coroutine[torch.Tensor, float, tuple[torch.Tensor, float]]:
        """An image nearer to `start` that still gains more than `least`, and its gain."""
        low, high, far = 0.0, 1.0, found
        for _ in range(self.halvings):
            middle = (low + high) / 2
            tried = stored(start + middle * (far - start), image, threat)
            seen = clean - (yield tried)
            if seen > least:
                high, found, gain = middle, tried, seen
            else:
                low = middle
        angle = _ANGLE
        for _ in range(self.turns):
            change = found - start
            length = change.norm().clamp(min=1e-12)
            across = _low_wave(image, generator)
            across = across - (across * change).sum() / length**2 * change
            across = across / across.norm().clamp(min=1e-12)
            # the circle through both images: at an angle, the change is shorter by its cosine
            turned = math.cos(angle) * (math.cos(angle) * change + math.sin(angle) * length * across)
            tried = stored(start + turned, image, threat)
            seen = clean - (yield tried)
            if seen > least:
                found, gain = tried, seen
            else:
                angle = -angle / 2
        return found, gain


def stored(images: torch.Tensor, clean: torch.Tensor, threat: Threat) -> torch.Tensor:
    """As it would be stored, inside the threat model."""
    return threat.snap(threat.project(images, clean), clean)


def _strongest_edges(image: torch.Tensor, share: float) -> torch.Tensor:
    """Mask (1, 1, H, W) of the pixels of the strongest edges; of all, where there are none."""
    sobel = image.new_tensor([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    filters = torch.stack([sobel, sobel.T])[:, None]
    strength = functional.conv2d(functional.pad(luma(image), (1, 1, 1, 1), mode="replicate"), filters)
    strength = strength.square().sum(dim=1, keepdim=True)
    kept = max(round(share * strength.numel()), 1)
    least = strength.flatten().kthvalue(strength.numel() - kept + 1).values
    return (strength >= least).to(image)


def _low_wave(image: torch.Tensor, generator: Generators) -> torch.Tensor:
    """A random sum (1, 3, H, W) of low-frequency cosines: an eighth of the frequencies of each axis."""
    _, channels, height, width = image.shape
    few = [max(math.ceil(side / 8), 1) for side in (height, width)]
    coefficients = generator.normal((channels, *few)).to(image)
    waves = []
    for side, count in zip((height, width), few, strict=True):
        at = torch.arange(side, dtype=image.dtype, device=image.device)
        order = torch.arange(count, dtype=image.dtype, device=image.device)
        waves.append(torch.cos(math.pi * order[:, None] * (at + 0.5) / side))
    wave: torch.Tensor = torch.einsum("nckl,kh,lw->nchw", coefficients, *waves)
    return wave
