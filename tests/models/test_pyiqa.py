"""pyiqa's metrics as models, with a stub of the interface that is used, and with the real library where installed."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from iqarena.bench.errors import UserError
from iqarena.bench.inference.loading import load_model
from iqarena.models.bridges.pyiqa import PyIQA
from tests.support.attack_runs import random_pixels


@pytest.fixture
def images() -> torch.Tensor:
    return random_pixels(3, 20, 24).float() / 255


class Metric(nn.Module):
    """A stub of a pyiqa metric: its score is mean brightness times a weight, lower is better."""

    lower_better = True

    def __init__(self, name: str, score_range: str, options: dict[str, object]) -> None:
        super().__init__()
        self.name, self.score_range, self.options = name, score_range, options
        self.weight = nn.Parameter(torch.tensor(float(options.get("weight", 50.0))))
        self.crops = name == "crops"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shift = np.random.rand() if self.crops else 0.0
        return (self.weight * images.mean(dim=(1, 2, 3)) + shift)[:, None]


@pytest.fixture
def library(monkeypatch, tmp_path):
    metrics = []

    def create_metric(name, *, as_loss, loss_reduction, device, **options):
        assert as_loss
        assert loss_reduction == "none"
        if name == "offline":
            raise OSError("<urlopen error\n[Errno -2]>")
        if name == "code":
            torch.load(tmp_path / "code.pth", weights_only=False)
        print("Loading pretrained model")
        metrics.append(Metric(name, {"dark": "0, 100", "rough": "~0, ~100"}.get(name, "0,100"), options))
        return metrics[-1]

    stand_in = types.ModuleType("pyiqa")
    stand_in.__version__ = "0.1"
    stand_in.create_metric = create_metric
    stand_in.list_models = lambda metric_mode: ["dark", "rough", "crops", "offline", "code"] if metric_mode == "NR" else []
    stand_in.made = metrics
    monkeypatch.setitem(sys.modules, "pyiqa", stand_in)
    return stand_in


def test_pyiqa_states_range_and_direction_itself(library, images, capsys):
    model = load_model("pyiqa:dark[min_size=16]")
    assert model.info.score_range == (0, 100)
    assert not model.info.higher_is_better
    assert model.info.sources.count("its own word") == 2
    torch.testing.assert_close(model.quality(images), 1 - images.mean(dim=(1, 2, 3)) / 2)
    assert "PolyForm" in model.info.licence
    printed = capsys.readouterr()
    assert printed.out == ""  # the library's output must not mix with data
    assert "Loading" in printed.err


def test_an_approximate_range_of_pyiqas_is_measured(library, few):
    model = load_model("pyiqa:rough[min_size=16]")
    low, high = model.info.score_range
    assert 24 < low < high < 26  # fifty times a mean brightness of about ½
    assert "score_range: 1st and 99th percentile" in model.info.sources


def test_other_parameters_are_the_metrics_own_and_are_in_its_hash(library):
    one, two = load_model("pyiqa:dark[weight=60,min_size=16]"), load_model("pyiqa:dark[min_size=16]")
    assert [metric.options for metric in library.made] == [{"weight": 60}, {}]
    assert one.info.weights_sha256 != two.info.weights_sha256


def test_numpys_stream_follows_torchs(library, images):
    model = load_model("pyiqa:crops[min_size=16]")
    assert model.info.stochastic
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    torch.manual_seed(1)
    first = model(images)
    torch.manual_seed(1)
    assert torch.equal(model(images), first)
    torch.manual_seed(2)
    assert not torch.equal(model(images), first)
    assert np.random.rand() == expected


def test_what_pyiqa_cannot_give_is_one_line(library, tmp_path):
    torch.save(Metric("dark", "0,1", {}), tmp_path / "code.pth")
    for name, message in (
        ("drak", "did you mean dark?"),
        ("musiq", "it has 5, such as dark, rough"),
        ("offline", "its weights cannot be fetched or read"),
        ("code", "its weight file is refused, it holds more than tensors"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            load_model(f"pyiqa:{name}")
        assert "\n" not in str(refused.value)


def test_pyiqa_itself(images):
    """Test metrics that need no weights, where the real library is installed."""
    real = pytest.importorskip("pyiqa", exc_type=ImportError, reason="needs pyiqa")
    model = load_model("pyiqa:entropy[min_size=8]")
    assert model.info.score_range == (0, 8)
    assert isinstance(model, PyIQA)
    torch.testing.assert_close(model(images), real.create_metric("entropy", device="cpu")(images).flatten())
