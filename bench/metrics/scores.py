"""The input of measures: labels and qualities of the images of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from iqarena.bench.metrics.logistic import Curve, fit
from iqarena.bench.metrics.resampled import ResampledStatistics
from iqarena.bench.metrics.weighted import Reals


class Scores:
    """Labels and qualities (n,) of the images of a cell, with the resamples for which measures are computed."""

    def __init__(self, table: Mapping[str, Reals], sample: ResampledStatistics) -> None:
        self._table = table
        self.mos, self.clean, self.adv = table["mos"], table["clean"], table["adv"]
        self.undefended = table["undefended"]
        self.sample = sample

    @cached_property
    def labelled(self) -> Scores:
        """The scores of the images that have a label, as if the others were not there; of all if fewer than two have one."""
        known = ~np.isnan(self.mos)
        if known.all() or known.sum() < 2:
            return self
        table = {name: values[known] for name, values in self._table.items()}
        references = list(table.get("reference_id", np.arange(len(table["mos"]))))
        return Scores(table, ResampledStatistics.of(references, len(self.sample.weights) - 1))

    @cached_property
    def shift(self) -> Reals:
        """Absolute shift |q′ − q| of each image."""
        return np.abs(self.adv - self.clean)

    @cached_property
    def curve(self) -> Curve:
        """Logistic curve from clean qualities to labels."""
        return fit(self.clean, self.mos)
