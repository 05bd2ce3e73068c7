"""The identity of models that no registry vouches for: pairs that differ in one way are told apart, one model is not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from iqarena import evaluate
from iqarena.bench.code_hash import is_user_code
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.inference.identity import ask, fingerprint, same
from iqarena.models.base import Custom, ModelInfo, QualityModel
from tests.support.analytic_models import StochasticModel


def detail(images: torch.Tensor) -> torch.Tensor:
    """One minus the mean step between neighbours."""
    gray = images.mean(1)
    return 1 - 4 * (gray[..., 1:] - gray[..., :-1]).abs().mean((1, 2))


class Net(nn.Module):
    """A network whose parts the pairs below change one by one."""

    def __init__(self, sign: float = 1.0, pool: type[nn.Module] = nn.MaxPool2d, mean: float = 0.0) -> None:
        super().__init__()
        self.sign, self.curve, self.settings = sign, torch.sigmoid, {"scale": 1.0}
        self.pool = pool(2)  # type: ignore[call-arg]  # a layer without parameters
        self.inner: nn.Module = nn.Identity()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), mean), persistent=False)
        self.gain = nn.Parameter(torch.ones(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = self.inner(self.pool(images - self.mean))
        return self.curve(self.sign * detail(values) * self.gain[0] * self.settings["scale"])


class Plus(nn.Module):
    """An inner network."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + 0.1 * images.square()


class Minus(nn.Module):
    """Another one, with the same weights: none."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images - 0.1 * images.square()


def changed(change: Callable[[Net], object]) -> Net:
    """A network after a change."""
    net = Net()
    change(net)
    return net


def closure(offset: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that encloses a number."""
    return lambda scores: scores + offset


def with_inner(inner: nn.Module) -> Net:
    """A network around another one."""
    return changed(lambda net: setattr(net, "inner", inner))


def weighted(values: list[float]) -> Net:
    """A network with these weights."""
    return changed(lambda net: net.gain.data.copy_(torch.tensor(values)))


def hooked() -> Net:
    """A network with a forward hook."""
    net = Net()
    net.register_forward_hook(lambda module, args, output: 1 - output)
    return net


PAIRS: dict[str, tuple[nn.Module, nn.Module]] = {
    "a plain attribute": (Net(1.0), Net(-1.0)),
    "a buffer that is not saved": (Net(mean=0.0), Net(mean=0.4)),
    "a layer without parameters": (Net(pool=nn.MaxPool2d), Net(pool=nn.AvgPool2d)),
    "an inner network": (with_inner(Plus()), with_inner(Minus())),
    "a function": (Net(), changed(lambda net: setattr(net, "curve", torch.tanh))),
    "a closure": (
        changed(lambda net: setattr(net, "curve", closure(0.1))),
        changed(lambda net: setattr(net, "curve", closure(0.2))),
    ),
    "a value in a dictionary": (Net(), changed(lambda net: net.settings.update(scale=2.0))),
    "weights": (weighted([1.0, 2.0]), weighted([0.5, 2.0])),
    "the order of weights": (weighted([1.0, 2.0]), weighted([2.0, 1.0])),
    "a hook": (Net(), hooked()),
}


@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=PAIRS)
def test_models_that_differ_in_one_way_have_fingerprints_and_results_of_their_own(
    one: nn.Module, other: nn.Module, small: ImageDataset, tmp_path: Path
) -> None:
    assert fingerprint(one) != fingerprint(other)

    def scores(model: nn.Module, out: Path | None) -> list[float]:
        report = evaluate(model, ["fgsm"], small, limit=None, out=out, progress=False)
        assert report.status.tolist() == ["ok"]
        return [float(quality) for quality in report.images.adv_quality]

    scores(one, tmp_path / "out")
    assert scores(other, tmp_path / "out") == scores(other, None) != scores(one, None)


CLASS = """
import torch
class Typed(torch.nn.Module):
    def forward(self, images):
        return images.mean((1, 2, 3)) {sign} 0.5
"""


def test_a_class_of_a_notebook_that_is_typed_anew_is_another_one() -> None:
    def typed(sign: str) -> nn.Module:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(CLASS.format(sign=sign), "<ipython-input>", "exec"), names)
        built: nn.Module = names["Typed"]()
        return built

    assert fingerprint(typed("+")) == fingerprint(typed("+")) != fingerprint(typed("-"))


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Writes a module of the caller's, and loads it anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text: str) -> ModuleType:
        (tmp_path / "their_helper.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop("their_helper", None)
        is_user_code.cache_clear()
        return importlib.import_module("their_helper")

    return write


def test_a_helper_module_that_changed_is_seen(helper: Callable[[str], ModuleType]) -> None:
    prints = []
    for value in (4.0, -4.0):
        module = helper(f"import torch\nK = {value}\ndef score(x):\n    return K * x.mean((1, 2, 3))\n")
        prints.append(fingerprint(changed(lambda net, module=module: setattr(net, "curve", module.score))))
        prints.append(fingerprint(changed(lambda net, module=module: setattr(net, "library", module))))
    assert len(set(prints)) == 4


def test_the_fingerprint_is_the_same_in_another_process_and_after_scoring(tmp_path: Path) -> None:
    import subprocess

    code = "from tests.inference.test_identity import Net, fingerprint; print(fingerprint(Net()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    net = Net()
    before = fingerprint(net)
    net.eval()(torch.rand(2, 3, 32, 32))
    assert done.stdout.strip() == before == fingerprint(net)


def quality(module: nn.Module) -> QualityModel:
    """The module as `evaluate` wraps it."""
    return Custom(module, ModelInfo("net", min_size=1)).eval()


def test_a_model_answers_alike_on_several_threads_and_in_channels_last() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1))
    first = ask(quality(network))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        second = ask(quality(network.to(memory_format=torch.channels_last)))
    finally:
        torch.set_num_threads(threads)
    assert same(first, second)
    assert len(first["scores"]) == 8
    assert len(first["products"]) == 4


@pytest.mark.parametrize("name", ["a plain attribute", "an inner network", "a hook", "weights"])
def test_models_that_differ_give_other_answers(name: str) -> None:
    one, other = PAIRS[name]
    assert not same(ask(quality(one)), ask(quality(other)))


def test_a_slope_that_only_the_gradient_shows_is_another_answer() -> None:
    class Detached(Net):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images + 0 * images) + (images - images.detach()).sum((1, 2, 3))

    assert ask(quality(Net()))["scores"] == pytest.approx(ask(quality(Detached()))["scores"])
    assert not same(ask(quality(Net())), ask(quality(Detached())))


def test_a_stochastic_model_is_asked_under_one_seed_and_leaves_the_random_streams_alone() -> None:
    before = torch.get_rng_state()
    first = ask(StochasticModel())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert same(first, ask(StochasticModel()))


def test_an_error_and_a_score_that_is_not_finite_are_answers() -> None:
    class Failing(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    class Empty(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((1, 2, 3)) * float("nan")

    failing, empty = ask(quality(Failing())), ask(quality(Empty()))
    assert failing == {"error": "ValueError"}
    assert empty["scores"] == [None] * 8
    assert same(failing, failing)
    assert same(empty, empty)
    assert not same(failing, empty)


class Switched(nn.Module):
    """A model that reads a setting which no hash of it sees: it is kept in another object at run time."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.5 + getattr(sys, "_iqarena_test_sign", 1.0) * (detail(images) - 0.5)


def test_a_model_that_no_hash_tells_apart_is_run_anew_with_a_warning(
    small: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clean() -> float:
        return float(evaluate(Switched(), ["fgsm"], small, limit=None, out=tmp_path).srocc_clean[0])

    first = clean()
    assert clean() == first
    monkeypatch.setattr(sys, "_iqarena_test_sign", -1.0, raising=False)
    with pytest.warns(UserWarning, match="1 cells in .* were of another model than 'Switched' is now; they were run anew"):
        assert clean() == -first
    assert clean() == -first
