"""Weights of the network filters."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from iqarena.defenses.base import DoesNotApply
from iqarena.models.zoo import load_weights, weight_file


def filter_weights(name: str, network: nn.Module, file: str = "") -> str:
    """Load the weights of a filter, from the zoo if no file is given, and return their sha256.

    Raises:
        DoesNotApply: if no file is given and none is shipped.
        WeightsError: if the file is damaged or belongs to another network.
    """
    path = Path(file) if file else weight_file(name)
    if not file and not path.is_file():
        raise DoesNotApply(
            f"no trained weights of {name}; make them with "
            f"`python -m iqarena.defenses.purification.train_denoiser --filter {name} --images FOLDER`"
        )
    return load_weights(network, path)
