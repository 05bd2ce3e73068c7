"""Pseudo-MOS: a label for distorted images that nobody has rated, from a consensus of full-reference measures.

The idea is KADIS-700k's (Lin, Hosu, Saupe, arXiv 2001.08113): let good full-reference measures stand in for raters and
equalise each one's histogram, so that no measure's scale outweighs another's. Here: FSIM (colour), HaarPSI, VIFp, GMSD
and MDSI as ``piq`` computes them, each turned into its percentile among the measures of a training set, oriented so
that 1 is best; the pseudo-MOS is the mean of the five percentiles, in [0, 1]. A pristine image has nearly 1.

The percentiles are kept in ``pseudo_mos.json``, so that every label anywhere is on one scale. Labels are made once and
stored with the images; only making them needs ``piq`` (and with it torchvision).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

MEASURES = ("fsim", "haarpsi", "vif_p", "gmsd", "mdsi")
LOWER_IS_BETTER = frozenset({"gmsd", "mdsi"})
CONSENSUS_FILE = Path(__file__).with_name("pseudo_mos.json")


def measure(references: torch.Tensor, distorted: torch.Tensor) -> NDArray[np.float64]:
    """The five measures.

    Args:
        references: pristine images, (N, 3, H, W) in [0, 1].
        distorted: their distorted versions, the same shape.

    Returns:
        (N, 5), columns in the order of ``MEASURES``, each in its own unit.

    Raises:
        ImportError: without ``piq``.
    """
    import piq

    with torch.inference_mode():
        columns = [getattr(piq, name)(distorted, references, data_range=1.0, reduction="none") for name in MEASURES]
    return torch.stack([column.reshape(-1) for column in columns], dim=1).double().numpy()


def fit_consensus(measures: NDArray[np.float64]) -> dict[str, list[float]]:
    """The percentiles 0 … 100 of each measure over a training set's distorted images, (N, 5) as from `measure`."""
    return {name: np.percentile(measures[:, i], np.arange(101)).tolist() for i, name in enumerate(MEASURES)}


def load_consensus() -> dict[str, list[float]]:
    """The project's committed percentiles."""
    loaded: dict[str, list[float]] = json.loads(CONSENSUS_FILE.read_text())
    return loaded


def pseudo_mos(measures: NDArray[np.float64], consensus: dict[str, list[float]]) -> NDArray[np.float64]:
    """Measures (N, 5) to pseudo-MOS (N,) in [0, 1], 1 = best."""
    ranks = []
    for i, name in enumerate(MEASURES):
        share = np.interp(measures[:, i], consensus[name], np.linspace(0, 1, 101))
        ranks.append(1 - share if name in LOWER_IS_BETTER else share)
    mean: NDArray[np.float64] = np.mean(ranks, axis=0)
    return mean
