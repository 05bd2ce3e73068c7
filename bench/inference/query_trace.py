"""The progress of an attack by forward passes, recorded from its queries, so one run gives the whole curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from iqarena.attacks.objective import Objective
from iqarena.bench.metrics.resampled import ResampledStatistics

CHECKPOINTS = tuple(sign * 10**power for power in range(6) for sign in (1, 2, 5))
"""Numbers of forward passes per image after which the best quality so far is recorded: 1, 2, 5, 10, … 500,000."""


class QueryTrace:
    """The quality with the least loss so far of each image of a batch, at each of the checkpoints.

    Qualities are those that the attack saw: of the surrogate if it queries one, and of the images as it queried them, which
    other libraries neither round to 8 bit nor always keep inside the threat model. So the last value may differ from the
    attacked quality of the record, which is that of the deployed model on the stored image.

    Args:
        objective: objective of the images, with their clean qualities.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.best, self.losses = objective.clean.clone(), objective.loss(objective.clean)
        self.checkpoints = torch.tensor(CHECKPOINTS, device=self.best.device)
        self.seen = self.best[:, None].repeat(1, len(CHECKPOINTS))

    def note(self, index: torch.Tensor, forwards: torch.Tensor, qualities: torch.Tensor) -> None:
        """Record answers of the model.

        Args:
            index: indices of the images, (M,).
            forwards: forward passes of each so far, (M,).
            qualities: qualities that the model returned, (M,).
        """
        index, forwards = index.to(self.best.device), forwards.to(self.best.device)
        qualities = qualities.detach().to(self.best)
        losses = self.objective.part(index).loss(qualities)
        better = losses < self.losses[index]
        best = torch.where(better, qualities, self.best[index])
        self.best[index], self.losses[index] = best, torch.where(better, losses, self.losses[index])
        later = self.checkpoints >= forwards[:, None]
        self.seen[index] = torch.where(later, best[:, None], self.seen[index])


def curve(clean: torch.Tensor, seen: torch.Tensor, forwards: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Compute the curve of an image set for its record; empty if the attack made no query or a value is missing.

    Args:
        clean: clean qualities (n,) as the attack saw them.
        seen: (n, checkpoints), see `QueryTrace`.
        forwards: total forward passes of each image, (n,).
        labels: (n,), NaN if there is none.

    Returns:
        ``forwards`` (the last entry is the maximum over the images), and for each entry ``abs_gain`` (mean |quality −
        clean|), ``srocc`` (with the labels, of the images that have one; null without labels) and ``stability_srocc`` (with
        the clean qualities) of the qualities with the least loss so far.
    """
    most = int(forwards.max()) if len(forwards) else 0
    if most == 0 or not (clean.isfinite().all() and seen.isfinite().all()):
        return {}
    reached = [index for index, count in enumerate(CHECKPOINTS) if count < most]
    last = min(len(reached), len(CHECKPOINTS) - 1)
    indices, counts = [*reached, last], [*(CHECKPOINTS[index] for index in reached), most]
    sample = ResampledStatistics(np.ones((1, len(clean))))
    before, y = clean.double().cpu().numpy(), labels.double().cpu().numpy()
    columns = list(seen[:, indices].double().cpu().numpy().T)
    known = ~np.isnan(y) if (~np.isnan(y)).sum() > 1 else np.ones(len(y), dtype=bool)
    labelled = ResampledStatistics(np.ones((1, int(known.sum()))))
    return {
        "forwards": counts,
        "abs_gain": [float(np.abs(column - before).mean()) for column in columns],
        "srocc": [_number(value) for value in labelled.spearmans(y[known], [column[known] for column in columns])],
        "stability_srocc": [_number(value) for value in sample.spearmans(before, columns)],
    }


def _number(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    return float(values[0]) if np.isfinite(values[0]) else None
