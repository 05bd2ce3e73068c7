"""Isolation of plugins: what they do to the process is put back or noticed, and so is what they do to a model."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from iqarena.bench.errors import UserError
from iqarena.bench.inference.isolation import PastTarget, model_state, own_copy, undisturbed, watched
from iqarena.bench.inference.process_state import settled
from iqarena.bench.inference.target import Target, frozen
from iqarena.models.base import Custom, ModelInfo, QualityModel


class Small(nn.Module):
    """A convolution and a batch normalisation, with a mean that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.normalisation = nn.BatchNorm2d(4)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.normalisation(self.convolution(images - self.mean)).abs().mean((1, 2, 3))
        return scores


def quality_model(module: nn.Module) -> QualityModel:
    return Custom(module, ModelInfo("own", min_size=1)).eval()


IMAGES = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


# --- the process


def _autocast() -> None:
    torch.autocast("cpu", torch.bfloat16).__enter__()


def _inference() -> None:
    _LEFT.append(torch.inference_mode())
    _LEFT[-1].__enter__()


_LEFT: list[torch.inference_mode] = []

SETTINGS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "default device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
    "autocast": (_autocast, lambda: torch.is_autocast_enabled("cpu")),
    "inference mode": (_inference, torch.is_inference_mode_enabled),
    "gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "matmul": (lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision),
    "deterministic": (lambda: torch.use_deterministic_algorithms(True), torch.are_deterministic_algorithms_enabled),
    "tiny numbers": (lambda: torch.set_flush_denormal(True), lambda: float(torch.full((1,), 1e-40).mul(1))),
    "hooks of all modules": (
        lambda: nn.modules.module.register_module_forward_hook(lambda *_: None),
        lambda: len(nn.modules.module._global_forward_hooks),
    ),
    "NumPy": (lambda: np.seterr(all="raise"), np.geterr),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_a_plugin_leaves_changed_is_put_back(name: str) -> None:
    change, read = SETTINGS[name]
    before = read()
    with undisturbed() as found:
        change()
        assert read() != before
    assert (read(), found) == (before, [])


@pytest.mark.parametrize("name", ["default dtype", "default device", "autocast", "inference mode", "gradients", "matmul"])
def test_the_settings_of_the_caller_do_not_matter_and_come_back(name: str) -> None:
    change, read = SETTINGS[name]
    usual = read()
    with undisturbed():
        change()
        changed = read()
        with settled():
            assert torch.zeros(1).dtype == torch.float32
            assert torch.zeros(1).device.type == "cpu"
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
            assert read() == usual
        assert read() == changed


def test_functions_that_a_plugin_deletes_or_replaces_are_put_back_and_noticed() -> None:
    relu, dumps, forward, length = functional.relu, json.dumps, nn.ReLU.forward, len
    with undisturbed() as found:
        del functional.relu, json.dumps
        nn.ReLU.forward = lambda self, x: x  # type: ignore[method-assign, assignment]
        del __builtins__["len"]
    assert (functional.relu, json.dumps, nn.ReLU.forward, len) == (relu, dumps, forward, length)
    (line,) = found
    assert line.startswith("it changed builtins.len, ")
    assert line.endswith(" and 1 more in this process; that was put back")


def test_values_that_a_module_changes_itself_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "a_cache", None, raising=False)
    with undisturbed() as found:
        json.a_cache = {"filled": 1}  # type: ignore[attr-defined]
    assert json.a_cache == {"filled": 1}  # type: ignore[attr-defined]
    assert not found


def test_a_working_folder_that_was_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with undisturbed() as found:
        os.chdir("/")
        folder.rmdir()
    assert Path.cwd() == folder
    assert found == [f"it removed the working folder {folder}, which was made again, empty"]


# --- a model


CHANGES: dict[str, tuple[Callable[[Small, QualityModel], object], list[str]]] = {
    "a weight": (lambda own, _: own.convolution.weight.data.view(-1)[3].add_(1e-6), ["weights"]),
    "weights in another order": (
        lambda own, _: own.convolution.weight.data.copy_(own.convolution.weight.data.flip(0)),
        ["weights"],
    ),
    "a buffer": (lambda own, _: own.normalisation.running_mean.add_(1), ["weights"]),  # type: ignore[union-attr, operator]
    "a buffer that is not saved": (lambda own, _: own.mean.zero_(), ["weights"]),  # type: ignore[operator, union-attr]
    "a hook": (lambda own, _: own.convolution.register_forward_hook(lambda *_: None), ["hooks"]),
    "a hook before": (lambda own, _: own.register_forward_pre_hook(lambda *_: None), ["hooks"]),
    "info": (lambda _, model: setattr(model, "info", ModelInfo("own", (0.0, 2.0), min_size=1)), ["info"]),
    "a buffer of another size": (lambda own, _: own.register_buffer("mean", torch.zeros(1), persistent=False), []),
    "the memory layout": (lambda own, _: own.to(memory_format=torch.channels_last), []),
    "nothing": (lambda *_: None, []),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_a_model_are_noticed(name: str) -> None:
    change, expected = CHANGES[name]
    own = Small()
    model = quality_model(own)
    before = model_state(model)
    change(own, model)
    assert before.changes(model_state(model)) == expected


class Lock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with self.lock:
            return images.mean((1, 2, 3))


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.twice = self.weight * 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.twice * images.mean((1, 2, 3))


def _normalised() -> nn.Module:
    small = Small()
    nn.utils.weight_norm(small.convolution)
    return small


def _quantised() -> nn.Module:
    linear = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    quantised: nn.Module = torch.ao.quantization.quantize_dynamic(linear, {nn.Linear}, dtype=torch.qint8)
    return quantised


@pytest.mark.parametrize(
    "make",
    [
        Small,
        Lock,
        Cached,
        _normalised,
        _quantised,
        lambda: torch.jit.script(Small()),
        lambda: torch.jit.script(Small().eval()),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch: old functions, which people still use
def test_models_that_deepcopy_refuses_are_copied_with_their_scores(make: Callable[[], nn.Module]) -> None:
    model = quality_model(make())
    copied = own_copy(model)
    assert copied is not model
    with frozen(copied), torch.no_grad():
        assert torch.equal(copied.quality(IMAGES), model.quality(IMAGES))
    assert "weights" not in model_state(model).changes(model_state(copied))


def test_a_copy_made_in_inference_mode_has_gradients() -> None:
    with torch.inference_mode():
        model = own_copy(quality_model(Small()))
    with frozen(model):
        _, gradient = Target(model, 2, "gradient").quality_and_grad(IMAGES, lambda quality: quality)
    assert gradient.abs().max() > 0


class Refuses(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("no\ncopies")


def test_a_model_that_cannot_be_copied_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^model 'own' cannot be copied \(RuntimeError: no copies\); define __deepcopy__"):
        own_copy(quality_model(Refuses()))


# --- past the target


ASKED: dict[str, tuple[Callable[[QualityModel, Target], object], int, bool]] = {
    "a score": (lambda model, _: model.quality(IMAGES), 2, False),
    "the forward function": (lambda model, _: model.forward(IMAGES), 2, False),
    "a layer": (lambda model, _: model.module.convolution(IMAGES), 2, False),  # type: ignore[union-attr, operator]
    "a gradient": (lambda model, _: model.quality(IMAGES.clone().requires_grad_()), 2, True),
    "the target": (lambda _, target: target.quality_and_grad(IMAGES, lambda quality: quality), 0, False),
    "the target's module": (lambda _, target: target.module(lambda quality: quality)(IMAGES), 0, False),
}


@pytest.mark.parametrize("name", ASKED)
def test_questions_past_the_target_are_counted(name: str) -> None:
    ask, images, gradients = ASKED[name]
    model = quality_model(Small())
    with watched(model) as past:
        ask(model, Target(model, 2, "gradient"))
    assert (past.images, past.gradients, bool(past.reason)) == (images, gradients, images > 0)
    model.quality(IMAGES)
    assert past.images == images, "nothing is left on the model"
    assert "forward" not in vars(model)


def test_activations_that_a_backward_pass_computes_again_are_not_past_the_target() -> None:
    class Again(Small):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = torch.utils.checkpoint.checkpoint(self.convolution, images, use_reentrant=False)
            assert isinstance(features, torch.Tensor)
            return features.abs().mean((1, 2, 3))

    model = quality_model(Again())
    past: PastTarget
    with watched(model) as past:
        target = Target(model, 2, "gradient")
        leaf = IMAGES.clone().requires_grad_()
        target.module(lambda quality: quality)(leaf).sum().backward()
    assert leaf.grad is not None
    assert past.images == 0
