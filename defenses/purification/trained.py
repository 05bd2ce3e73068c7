"""Weights of the filters that are networks."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from iqarena.defenses.base import DoesNotApply
from iqarena.models.zoo import load_weights, weight_file


def filter_weights(name: str, network: nn.Module, file: str = "") -> str:
    """Load a filter's weights, from the zoo if no file is named; returns their sha256.

    Raises:
        DoesNotApply: where no file is named and none is shipped.
        WeightsError: where the file is damaged or another network's.
    """
    path = Path(file) if file else weight_file(name)
    if not file and not path.is_file():
        raise DoesNotApply(
            f"no trained weights of {name}; make them with "
            f"`python -m iqarena.defenses.purification.train_denoiser --filter {name} --images FOLDER`"
        )
    return load_weights(network, path)
