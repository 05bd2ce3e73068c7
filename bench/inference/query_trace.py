"""How far an attack had come after so many forward passes, read off what it asked: one run gives a whole curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from iqarena.attacks.objective import Objective
from iqarena.bench.metrics.resampled import ResampledStatistics

CHECKPOINTS = tuple(sign * 10**power for power in range(6) for sign in (1, 2, 5))
"""Forward passes of an image after which the best so far is kept: 1, 2, 5, 10, … 500,000."""


class QueryTrace:
    """The quality of least loss that a batch of images has been seen with, after each of the checkpoints.

    It is what the attack saw of the model it asked: of a surrogate where that is what it asks, and of images as it asked
    about them, which other libraries neither round to 8 bit nor always keep inside the threat model. So its end need not be
    the attacked quality of the record, which is of the deployed model on the stored image.

    Args:
        objective: of the images, with their clean qualities.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.best, self.losses = objective.clean.clone(), objective.loss(objective.clean)
        self.checkpoints = torch.tensor(CHECKPOINTS, device=self.best.device)
        self.seen = self.best[:, None].repeat(1, len(CHECKPOINTS))

    def note(self, index: torch.Tensor, forwards: torch.Tensor, qualities: torch.Tensor) -> None:
        """Some images (M,), how often they have been asked about by now (M,), and what was answered (M,)."""
        index, forwards = index.to(self.best.device), forwards.to(self.best.device)
        qualities = qualities.detach().to(self.best)
        losses = self.objective.part(index).loss(qualities)
        better = losses < self.losses[index]
        best = torch.where(better, qualities, self.best[index])
        self.best[index], self.losses[index] = best, torch.where(better, losses, self.losses[index])
        later = self.checkpoints >= forwards[:, None]
        self.seen[index] = torch.where(later, best[:, None], self.seen[index])


def curve(clean: torch.Tensor, seen: torch.Tensor, forwards: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """What a record holds of the trail of an image set; empty where nothing was asked or anything is missing.

    Args:
        clean: qualities (n,) as the attack saw them.
        seen: (n, checkpoints), see `QueryTrace`.
        forwards: of each image in the end, (n,).
        labels: (n,), NaN where there is none.

    Returns:
        ``forwards`` (the last is how many the image with most took), and for each of them ``abs_gain`` (mean |quality −
        clean|), ``srocc`` (with the labels, null without) and ``stability_srocc`` (with the clean qualities) of the
        qualities of least loss so far.
    """
    most = int(forwards.max()) if len(forwards) else 0
    if most == 0 or not (clean.isfinite().all() and seen.isfinite().all()):
        return {}
    reached = [place for place, count in enumerate(CHECKPOINTS) if count < most]
    last = min(len(reached), len(CHECKPOINTS) - 1)
    places, counts = [*reached, last], [*(CHECKPOINTS[place] for place in reached), most]
    sample = ResampledStatistics(np.ones((1, len(clean))))
    before, y = clean.double().cpu().numpy(), labels.double().cpu().numpy()
    columns = list(seen[:, places].double().cpu().numpy().T)
    return {
        "forwards": counts,
        "abs_gain": [float(np.abs(column - before).mean()) for column in columns],
        "srocc": [_number(value) for value in sample.spearmans(y, columns)],
        "stability_srocc": [_number(value) for value in sample.spearmans(before, columns)],
    }


def _number(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    return float(values[0]) if np.isfinite(values[0]) else None
