"""`score-boundary`: black-box attack over successive score boundaries (Yang, Liu, Li, Jiang, arXiv 2401.05217).

From the paper and the authors' published settings: the score of an image has to cross a boundary, at first 1/100 of the
range away from its clean score in the direction of the attack. Random perturbations are tried, high-frequency texture of
random amplitude and sign in regions where it is hardly visible (at edges and salient regions, below the just noticeable
difference), until one crosses the boundary. If 200 of them fail, the boundary is moved half way back; if one goes three
times as far, the boundary is moved half way toward it. Then the perturbation is reduced without crossing back (bisection,
then steps along a circle as in SurFree, with low-frequency cosines). From the result the next boundary is attacked, at the
same distance again.

In this implementation, the ball of the threat model replaces the just noticeable difference; random signs in blocks of 1 to
8 pixels replace crops of two high-frequency images; a Sobel filter replaces Canny edges, and squares of random side and
position replace the saliency map. Boundaries are in units of the loss, so that every objective is supported, and the next
one lies beyond what has been reached. The authors spend 100 queries on reducing a perturbation; inside a ball, where only
the remaining budget matters, a few suffice.
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
"""Minimum distance between two boundaries, in units of loss."""
_ANGLE = math.radians(30)
"""Initial angle of a step along the circle."""


@dataclass(frozen=True)
class ScoreBoundary(ScoreAttack):
    """Textures at edges that cross one score boundary after another; each perturbation is reduced before the next boundary.

    Attributes:
        queries: forward passes per image, at least 1; fewer if the query limit is lower.
        boundary: distance of the first boundary from the clean loss.
        tries: random perturbations before the boundary is moved back.
        halvings: queries of the bisection that reduces a perturbation.
        turns: steps along the circle that reduce it further.
        edges: fraction of the pixels, those of the strongest edges, that may change; 1 for all.
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
        queried = torch.cat([next(search) for search in searches])
        for _ in range(queries):
            seen = objective.loss(target.quality(queried))
            keep(best, losses, queried, seen)
            replies = zip(searches, seen.tolist(), strict=True)
            queried = torch.cat([search.send(loss) for search, loss in replies])
        return best

    def _search(
        self, image: torch.Tensor, clean: float, threat: Threat, generator: Generators
    ) -> Coroutine[torch.Tensor, float, None]:
        """Search in one image: yield candidates (1, 3, H, W) and receive their losses; never ends."""
        mask = _strongest_edges(image, self.edges)
        start, crossed, step = image, 0.0, self.boundary
        while True:
            candidate, gain = start, -math.inf
            for _ in range(self.tries):
                candidate = stored(start + self._texture(image, threat, generator) * mask, image, threat)
                gain = clean - (yield candidate)
                if gain > crossed + step:
                    break
            else:
                step = max(step / 2, _LEAST)
                continue
            if gain > crossed + 3 * step:
                step *= 2
            start, crossed = yield from self._shrink(start, candidate, gain, crossed + step, clean, image, threat, generator)

    def _texture(self, image: torch.Tensor, threat: Threat, generator: Generators) -> torch.Tensor:
        """Draw random signs in blocks, of random amplitude, in a square of random side at a random position."""
        height, width = image.shape[2:]
        amplitude, choice, extent, top, left = generator.uniform(0, 1, (5,))[0].tolist()
        block = _TEXTURES[int(choice * len(_TEXTURES))]
        side = max(round(max(height, width) * 2 ** (-5 * extent)), 1)
        corner = torch.tensor(
            [[int(top * (height + side)) - side], [int(left * (width + side)) - side]], device=image.device
        )
        length = 2.0 if threat.norm == "linf" else 8.0 / math.sqrt(image.numel())
        signs = signs_in_blocks(image, (block, block), generator)
        inside = square(corner[0], corner[1], side, height, width)
        texture: torch.Tensor = signs * inside * (amplitude * length * threat.size)
        return texture

    def _shrink(
        self,
        start: torch.Tensor,
        candidate: torch.Tensor,
        gain: float,
        least: float,
        clean: float,
        image: torch.Tensor,
        threat: Threat,
        generator: Generators,
    ) -> Coroutine[torch.Tensor, float, tuple[torch.Tensor, float]]:
        """Find an image closer to `start` that still gains more than `least`, and return its gain as well."""
        low, high, far = 0.0, 1.0, candidate
        for _ in range(self.halvings):
            middle = (low + high) / 2
            tried = stored(start + middle * (far - start), image, threat)
            seen = clean - (yield tried)
            if seen > least:
                high, candidate, gain = middle, tried, seen
            else:
                low = middle
        angle = _ANGLE
        for _ in range(self.turns):
            change = candidate - start
            length = change.norm().clamp(min=1e-12)
            across = _low_wave(image, generator)
            across = across - (across * change).sum() / length**2 * change
            across = across / across.norm().clamp(min=1e-12)
            # along the circle through both images, the perturbation shortens by the cosine of the angle
            turned = math.cos(angle) * (math.cos(angle) * change + math.sin(angle) * length * across)
            tried = stored(start + turned, image, threat)
            seen = clean - (yield tried)
            if seen > least:
                candidate, gain = tried, seen
            else:
                angle = -angle / 2
        return candidate, gain


def stored(images: torch.Tensor, clean: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Project images into the threat model and round them to 8 bit."""
    return threat.snap(threat.project(images, clean), clean)


def _strongest_edges(image: torch.Tensor, share: float) -> torch.Tensor:
    """Return the mask (1, 1, H, W) of the pixels of the strongest edges; of all pixels if there are no edges."""
    sobel = image.new_tensor([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    filters = torch.stack([sobel, sobel.T])[:, None]
    strength = functional.conv2d(functional.pad(luma(image), (1, 1, 1, 1), mode="replicate"), filters)
    strength = strength.square().sum(dim=1, keepdim=True)
    kept = max(round(share * strength.numel()), 1)
    least = strength.flatten().kthvalue(strength.numel() - kept + 1).values
    return (strength >= least).to(image)


def _low_wave(image: torch.Tensor, generator: Generators) -> torch.Tensor:
    """Draw a random sum (1, 3, H, W) of low-frequency cosines, the lowest eighth of the frequencies of each axis."""
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
