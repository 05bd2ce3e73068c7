"""Device and precision of passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from iqarena.bench.inference.device import Engine
from iqarena.bench.inference.loading import load_model
from iqarena.bench.registry import DEFENSES


@pytest.mark.parametrize("defense", ["none", "jpeg", "jpeg+flip", "median-smoothing", "cprl"])
def test_only_a_network_is_compiled_not_the_filters_around_it(defense: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """JPEG runs in Pillow, and compilation would change random draws."""
    compiled: list[nn.Module] = []

    def note(module: nn.Module) -> None:
        compiled.append(module)

    monkeypatch.setattr(nn.Module, "compile", note)
    bare = load_model("resnet-iqa")
    deployed = DEFENSES.build(defense).protect(bare)
    Engine(compile=True).place(deployed, torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert compiled == [deployed if defense == "cprl" else bare]
