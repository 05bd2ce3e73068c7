"""Pseudo-MOS: labels of distorted images without human ratings, from a consensus of full-reference measures.

As in KADIS-700k (Lin, Hosu, Saupe, arXiv 2001.08113), full-reference measures stand in for raters, and the histogram of
each one is equalised, so that no measure's scale outweighs another's. The measures are FSIM (colour), HaarPSI, VIFp, GMSD
and MDSI as computed by ``piq``, each converted to its percentile among the values of a training set, oriented so that 1 is
best. The pseudo-MOS is the mean of the five percentiles, in [0, 1]; it is nearly 1 for a pristine image.

The percentiles are stored in ``pseudo_mos.json``, so all labels are on one scale. Labels are computed once and stored with
the images; only their computation needs ``piq`` (and with it torchvision).
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
    """Compute the five measures.

    Args:
        references: pristine images, (N, 3, H, W) in [0, 1].
        distorted: their distorted versions, the same shape.

    Returns:
        (N, 5), columns in the order of ``MEASURES``, each on its own scale.

    Raises:
        ImportError: without ``piq``.
    """
    import piq

    with torch.inference_mode():
        columns = [getattr(piq, name)(distorted, references, data_range=1.0, reduction="none") for name in MEASURES]
    return torch.stack([column.reshape(-1) for column in columns], dim=1).double().numpy()


def fit_consensus(measures: NDArray[np.float64]) -> dict[str, list[float]]:
    """Compute the percentiles 0 … 100 of each measure over the distorted images of a training set.

    Args:
        measures: (N, 5), as from `measure`.
    """
    return {name: np.percentile(measures[:, i], np.arange(101)).tolist() for i, name in enumerate(MEASURES)}


def load_consensus() -> dict[str, list[float]]:
    """Load the percentiles that come with the project."""
    loaded: dict[str, list[float]] = json.loads(CONSENSUS_FILE.read_text())
    return loaded


def pseudo_mos(measures: NDArray[np.float64], consensus: dict[str, list[float]]) -> NDArray[np.float64]:
    """Convert measures (N, 5) to pseudo-MOS (N,) in [0, 1], 1 = best."""
    ranks = []
    for i, name in enumerate(MEASURES):
        share = np.interp(measures[:, i], consensus[name], np.linspace(0, 1, 101))
        ranks.append(1 - share if name in LOWER_IS_BETTER else share)
    mean: NDArray[np.float64] = np.mean(ranks, axis=0)
    return mean
