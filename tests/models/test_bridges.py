"""Models from other sources: their scores, given, stated or measured facts, and error messages for misuse."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from iqarena.bench.cells import expand
from iqarena.bench.checks.run import check
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import CannotRun, UserError
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.inference.loading import load_model
from iqarena.bench.registry import MODELS
from iqarena.bench.suite import validated
from iqarena.models.bridges import Facts
from tests.support.attack_runs import random_pixels
from tests.support.textures import Textures

ALL = "[low=0,high=1,higher_is_better=true,min_size=8]"
"""Facts that leave only gradient and randomness to measure."""


class Contrast(nn.Module):
    """A module that computes the mean absolute difference of neighbours, one number for each image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean(dim=[1, 2, 3])


@pytest.fixture
def images() -> torch.Tensor:
    return random_pixels(3, 20, 24).float() / 255


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A TorchScript file."""
    file = tmp_path / "net.pt"
    torch.jit.script(Contrast()).save(str(file))
    return file


def test_bridges_are_registered_and_list_nothing():
    assert {"pyiqa:", "torchscript:", "onnx:"} <= set(MODELS.entries)
    assert not [name for name in MODELS.names() if ":" in name]


@pytest.mark.parametrize("prefix", ["pyiqa", "torchscript", "onnx"])
def test_a_bridge_without_a_name_says_what_it_wants(prefix):
    with pytest.raises(UserError, match=f"{prefix}: needs a name after the colon"):
        load_model(f"{prefix}:")


# --- facts


def test_facts_of_one_go_before_those_of_another():
    assert Facts(low=1).or_else(Facts(0, 9, True, 7)) == Facts(1, 9, True, 7)
    assert Facts(higher_is_better=False).or_else(Facts(higher_is_better=True)).higher_is_better is False


@pytest.mark.parametrize("wrong", [{"min_size": 0}, {"low": float("inf")}, {"high": float("nan")}])
def test_facts_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match=r"min_size|finite"):
        Facts(**wrong)


def test_what_is_not_said_is_measured(script, few):
    model = load_model(f"torchscript:{script}")
    demo = Textures()
    scores = [float(Contrast()(demo.image(i)[None].float() / 255)) for i in range(40)]
    # rounded to a hundredth of their width or less
    assert model.info.score_range == pytest.approx(tuple(np.percentile(scores, [1, 99])), abs=0.01 * max(scores))
    assert model.info.higher_is_better
    assert model.info.min_size == 32
    assert model.info.differentiable
    assert not model.info.stochastic
    assert len(model.info.weights_sha256) == 64
    assert "demo images" in model.info.sources


def test_the_direction_is_that_of_the_correlation(tmp_path, few):
    class Smooth(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 5 - (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean(dim=[1, 2, 3])

    assert not load_model(of(Smooth(), tmp_path)).info.higher_is_better


def test_what_is_given_is_not_measured(script, monkeypatch):
    monkeypatch.setattr("iqarena.bench.inference.measured_info._on_demo", lambda model: pytest.fail("it was measured"))
    model = load_model(f"torchscript:{script}[low=-1,high=3,higher_is_better=false,min_size=10]")
    assert model.info.score_range == (-1, 3)
    assert not model.info.higher_is_better
    assert model.info.min_size == 10
    assert model.info.sources == "score_range: given; higher_is_better: given; min_size: given"


@pytest.mark.parametrize(
    ("brackets", "message"),
    [
        ("[low=1]", "give both low= and high=, or neither"),
        ("[low=3,high=1,higher_is_better=true]", "score_range must be"),
        ("[low=zero,high=1]", "low: Input should be a valid number"),
        ("[min_size=0]", "min_size must be at least 1"),
        ("[colour=red]", "has no parameter 'colour'; known are low, high, higher_is_better, min_size"),
    ],
)
def test_wrong_facts_are_one_line(script, brackets, message):
    with pytest.raises(UserError, match=message) as refused:
        load_model(f"torchscript:{script}{brackets}")
    assert "\n" not in str(refused.value)


def of(module: nn.Module, folder: Path) -> str:
    file = folder / "some.pt"
    torch.jit.script(module).save(str(file))
    return f"torchscript:{file}"


class Constant(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=[1, 2, 3]) * 0 + 4


class Hash(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.sin(images.mean(dim=[1, 2, 3]) * 1e5)


class Chance(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.rand(images.shape[0])


class Stubborn(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[2] == 7, "images of 7 rows only"
        return images.mean(dim=[1, 2, 3])


class Wide(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=[2, 3])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Constant, "all demo images score about 4; give low="),
        (Hash, "which way its scores go is not clear"),
        (Stubborn, "scores no image of 32×32 to 512×512"),
        (Wide, r"returned \(1, 3\) for 1 images"),
    ],
)
def test_what_cannot_be_measured_is_one_line(module, message, tmp_path, few):
    with pytest.raises(UserError, match=message) as refused:
        load_model(of(module(), tmp_path))
    assert "\n" not in str(refused.value)


def test_randomness_is_seen(tmp_path):
    assert load_model(of(Chance(), tmp_path) + ALL).info.stochastic


# --- torchscript


def test_torchscript_scores_as_the_module_and_lets_gradients_through(script, images):
    model = load_model(f"torchscript:{script}{ALL}")
    torch.testing.assert_close(model(images), Contrast()(images))
    leaf = images.clone().requires_grad_()
    assert torch.autograd.grad(model(leaf).sum(), leaf)[0].abs().sum() > 0


def test_a_column_of_scores_is_taken(tmp_path, images):
    column = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    assert load_model(of(column, tmp_path) + ALL)(images).shape == (3,)


def test_code_in_a_pickle_is_no_torchscript_and_never_runs(tmp_path):
    executed = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (executed,)

    for name in ("bomb.pt", "zip.pt"):
        file = tmp_path / name
        if name == "zip.pt":
            torch.save(Bomb(), file)
        else:
            file.write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(UserError, match="no TorchScript archive"):
            load_model(f"torchscript:{file}")
    assert not executed.exists()


def test_a_missing_file_is_one_line(tmp_path):
    for prefix in ("torchscript", "onnx"):
        with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\)"):
            load_model(f"{prefix}:{tmp_path / 'none'}")


def test_check_takes_a_network_file_as_it_is(tmp_path, few):
    file = of(Contrast(), tmp_path).removeprefix("torchscript:")
    (report,) = check(file)
    assert report.name == f"torchscript:{file}"
    assert {"batch", "gradient", "weights"} <= {finding.name for finding in report.findings if finding.ok}


# --- onnx


def graph(folder: Path, shape: list[object], kind: str = "FLOAT", inputs: int = 1, name: str = "net.onnx") -> str:
    """Write an ONNX file of the mean over colours and pixels, times two."""
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    from onnx import TensorProto, helper

    element = getattr(TensorProto, kind)
    given = [helper.make_tensor_value_info(f"images{i or ''}", element, shape) for i in range(inputs)]
    out = helper.make_tensor_value_info("score", element, None)
    two = helper.make_tensor("two", element, [], [2.0])
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "two"], ["score"]),
    ]
    onnx_model = helper.make_model(
        helper.make_graph(nodes, "net", given, [out], [two]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    file = folder / name
    onnx.save(onnx_model, str(file))
    return f"onnx:{file}"


@pytest.mark.parametrize("count", ["n", 2, 1])
@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE"])
def test_onnx_scores_any_number_of_images(tmp_path, images, count, kind):
    model = load_model(graph(tmp_path, [count, 3, "h", "w"], kind) + ALL)
    torch.testing.assert_close(model(images), 2 * images.mean(dim=(1, 2, 3)))
    assert model(images).dtype == torch.float32
    assert not model.info.differentiable


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (["n", 1, "h", "w"], {}, "takes 1 channels"),
        (["n", 3, 224, 224], {}, "takes one size only"),
        (["n", 3, "h", "w"], {"inputs": 2}, "export it with one"),
    ],
)
def test_onnx_of_another_kind_is_refused_in_a_line(tmp_path, shape, options, message):
    with pytest.raises(UserError, match=message):
        load_model(graph(tmp_path, shape, **options) + ALL)


def test_onnx_that_is_none_is_refused_in_a_line(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    (tmp_path / "net.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="onnxruntime cannot load it") as refused:
        load_model(f"onnx:{tmp_path / 'net.onnx'}")
    assert "\n" not in str(refused.value)


def test_gradient_attacks_on_scores_alone_are_skipped_with_a_reason(tmp_path):
    spec = graph(tmp_path, ["n", 3, "h", "w"]) + ALL
    evaluator = Evaluator(Demo(), 4, 4)
    suite = validated({"models": [spec], "attacks": [{"attack": "fgsm"}, {"attack": "random-noise"}], "limit": 4})
    by_attack = {cell.attack: cell for cell in expand(suite)}
    with pytest.raises(CannotRun, match=r"fgsm needs a gradient, and onnx:.* has none"):
        evaluator.ids.cell_id(by_attack["fgsm"])
    cell = by_attack["random-noise"]
    record, _ = evaluator.run(cell, evaluator.ids.cell_id(cell))
    assert record["status"] == "ok"


def test_without_its_library_a_bridge_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "net.onnx").write_bytes(b"graph")
    for library, spec in (("onnxruntime", f"onnx:{tmp_path / 'net.onnx'}"), ("pyiqa", "pyiqa:musiq")):
        monkeypatch.setitem(sys.modules, library, None)
        extra = spec.partition(":")[0]
        with pytest.raises(UserError, match=rf"pip install 'iqarena\[{extra}\]'"):
            load_model(spec)


# --- file:


def test_a_class_in_a_file_is_a_model(tmp_path, images):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "from iqarena.models.base import ModelInfo, QualityModel\n"
        "class Mine(QualityModel):\n"
        "    info = ModelInfo('mine', min_size=1)\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = torch.nn.Parameter(torch.tensor(2.0))\n"
        "    def forward(self, images):\n"
        "        return self.scale * images.mean(dim=(1, 2, 3))\n"
    )
    model = load_model(f"file:{file}:Mine")
    torch.testing.assert_close(model(images), 2 * images.mean(dim=(1, 2, 3)))
    assert len(model.info.weights_sha256) == 64
    save_file({"scale": torch.tensor(5.0)}, tmp_path / "five.safetensors")
    five = load_model(f"file:{file}:Mine[weights={tmp_path / 'five.safetensors'}]")
    torch.testing.assert_close(five(images), 5 * images.mean(dim=(1, 2, 3)))
    assert five.info.weights_sha256 != model.info.weights_sha256
    with pytest.raises(UserError, match="holds no QualityModel called 'Yours'"):
        load_model(f"file:{file}:Yours")
