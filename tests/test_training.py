"""The training loop: it learns, keeps its budget, resumes to the same weights, and leaves a card."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch._utils import ExceptionWrapper

from iqarena.bench.datasets.base import Subset
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.errors import UserError
from iqarena.bench.executors.progress import TrainingReporter
from iqarena.bench.inference.loading import load_model
from iqarena.bench.registry import DEFENSES, MODELS, Entry
from iqarena.bench.training import fit
from iqarena.defenses.training.loop import Progress, Schedule, inner_attack
from iqarena.models.base import FeatureModel, ModelInfo
from iqarena.models.zoo import load_weights


class Tiny(FeatureModel):
    """One convolution and a linear head."""

    info = ModelInfo("tiny", min_size=16)
    in_zoo = True

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, 2)
        self.norm = torch.nn.BatchNorm2d(8)
        self.linear = torch.nn.Linear(8, 1)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = torch.relu(self.norm(self.conv(images)))
        return maps

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        scores: torch.Tensor = self.linear(features.mean(dim=(2, 3)))
        return scores.squeeze(1)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a small model and few demo images."""
    monkeypatch.setitem(MODELS.entries, "tiny", Entry("tiny", Tiny))
    demo = Demo()
    monkeypatch.setattr("iqarena.bench.training.Demo", lambda: Subset(demo, demo.spread(12)))


@pytest.fixture
def noisy(tmp_path: Path) -> Folder:
    """A data set of grey images under noise; the label falls with the noise."""
    root = tmp_path / "data"
    root.mkdir()
    stream = np.random.default_rng(0)
    rows = []
    for number in range(96):
        level = stream.uniform(0, 60)
        pixels = np.clip(128 + stream.normal(0, level, (40, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        rows.append((f"{number}.png", str(number), 1 - level / 60, "validation" if number % 4 == 0 else "training"))
    pd.DataFrame(rows, columns=["image", "reference_id", "mos", "split"]).to_csv(root / "labels.csv", index=False)
    return Folder(root)


def schedule(passes: int, **changes: float) -> Schedule:
    return Schedule(passes=passes, batch=16, crop=32, learning_rate=0.02, ema=0.9, workers=0, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("defense", ["none", "adversarial-training", "cprl"])
def test_every_recipe_learns_within_its_budget(noisy: Folder, tmp_path: Path, defense: str) -> None:
    passes = 3200 * DEFENSES.build(defense).passes_an_image
    reports: list[Progress] = []
    file = fit("tiny", defense, noisy, schedule(passes), tmp_path / "out", report=reports.append)
    card = yaml.safe_load(file.with_suffix(".yaml").read_text())
    # noise is easy to see: the order of the unseen quarter must be nearly right
    assert card["measured"]["validation_srocc"] > 0.9
    assert card["budget"]["passes"] == passes
    assert card["budget"]["images_seen"] == passes // card["passes_an_image"]
    assert card["data"]["training_images"] == 72
    assert reports[-1].share == 1
    assert not file.with_suffix(".checkpoint").exists()


def test_the_card_guards_the_weights(noisy: Folder, tmp_path: Path) -> None:
    file = fit("tiny", "none", noisy, schedule(160), tmp_path / "out")
    card = yaml.safe_load(file.with_suffix(".yaml").read_text())
    assert load_model(f"tiny[weights={file}]").info.weights_sha256 == card["sha256"]
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=r"is not the .* of its card; restore the file"):
        load_model(f"tiny[weights={file}]")


def test_labels_tell_weights_of_one_recipe_apart(noisy: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (0, 1):
        file = fit("tiny", "none", noisy, replace(schedule(160), seed=seed), tmp_path, label=f"seed{seed}")
        assert file == tmp_path / f"tiny@seed{seed}.safetensors"
    monkeypatch.setenv("IQARENA_WEIGHTS", str(tmp_path))
    first, second = (load_model(f"tiny[weights=seed{seed}]").info.weights_sha256 for seed in (0, 1))
    assert first != second
    for wrong in ("0", "a/b", "a.b"):
        with pytest.raises(UserError, match="a letter, then"):
            fit("tiny", "none", noisy, schedule(160), tmp_path, label=wrong)


class Killed(Exception):
    pass


def test_a_killed_training_goes_on_to_the_same_weights(noisy: Folder, tmp_path: Path) -> None:
    whole = fit("tiny", "adversarial-training", noisy, schedule(6400), tmp_path / "whole")
    eager = schedule(6400, minutes_between_checkpoints=0.0)

    def kill(progress: Progress) -> None:
        if 0.4 < progress.share < 0.6:
            raise Killed

    with pytest.raises(Killed):
        fit("tiny", "adversarial-training", noisy, eager, tmp_path / "cut", report=kill)
    with pytest.raises(UserError, match="of another training"):
        fit("tiny", "adversarial-training", noisy, schedule(3200), tmp_path / "cut")
    # neither the decoding process nor the time of saving changes a weight, so another machine may resume
    resumed = fit("tiny", "adversarial-training", noisy, replace(schedule(6400), workers=1), tmp_path / "cut")
    a, b = Tiny(), Tiny()
    load_weights(a, whole)
    load_weights(b, resumed)
    # the same machine, threads and draws: nothing may differ
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


def test_what_is_not_split_is_split_by_reference_and_the_test_part_is_never_trained_on(
    noisy: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.read_csv(noisy.root / "labels.csv").drop(columns="split")
    table["reference_id"] = [f"scene {number // 4}" for number in table.index]
    table.to_csv(noisy.root / "labels.csv", index=False)
    data = Folder(noisy.root)
    seen: set[str] = set()
    read = Folder.part
    monkeypatch.setattr(
        Folder, "part", lambda self, i, choose: seen.add(self.samples[i].reference_id) or read(self, i, choose)
    )
    monkeypatch.setattr("iqarena.bench.training.srocc", lambda *_: 0.5)
    monkeypatch.setattr("iqarena.defenses.training.loop.srocc", lambda *_: 0.5)
    written = fit("tiny", "none", data, schedule(160, seed=3), tmp_path / "out")
    card = yaml.safe_load(written.with_suffix(".yaml").read_text())
    parts = data.split(3)
    training = {sample.reference_id for sample, part in zip(data.samples, parts, strict=True) if part == "training"}
    assert card["data"]["training_images"] == parts.count("training") == 68
    assert card["data"]["training_references"] == len(training) == 17
    assert seen == training
    assert card["measured"] == {"demo_srocc_pseudo_mos": 0.5, "validation_srocc": 0.5, "test_srocc": 0.5}


def test_a_training_shows_loss_srocc_and_the_time_left_also_after_it_was_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingReporter() as report:
        report.last = -math.inf
        report(Progress(0.75, 0.0123, 0.87, seconds=300.0))  # the first report of a run that was killed at 74 %
        report.last = -math.inf
        report(Progress(0.8, 0.0122, None, seconds=320.0))
    assert capsys.readouterr().out.splitlines() == [
        " 75.0% · loss 0.0123 · validation SROCC 0.870 · 100 s left at this pace",
        " 80.0% · loss 0.0122 · validation SROCC 0.870 · 80 s left at this pace",
    ]


def test_an_image_that_cannot_be_read_ends_a_training_in_one_line(noisy: Folder, tmp_path: Path) -> None:
    (noisy.root / "5.png").write_bytes(b"")
    with pytest.raises(UserError) as error:
        fit("tiny", "none", noisy, schedule(1600), tmp_path / "out")
    assert str(error.value).startswith(f"{noisy.root / '5.png'}: not a readable image")
    assert "\n" not in str(error.value)


def test_what_a_worker_process_could_not_read_is_one_line_too(
    noisy: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_a_loader_raises_it(*_: object, **__: object) -> None:
        try:
            raise UserError("5.png: not a readable image (0 bytes)")
        except UserError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()

    monkeypatch.setattr("iqarena.bench.training.train", as_a_loader_raises_it)
    with pytest.raises(UserError) as error:
        fit("tiny", "none", noisy, schedule(160), tmp_path / "out")
    assert str(error.value) == "5.png: not a readable image (0 bytes)"


def test_weights_start_where_they_are_told(noisy: Folder, tmp_path: Path) -> None:
    start = fit("tiny", "none", noisy, schedule(160), tmp_path / "start")
    file = fit("tiny", "cprl", noisy, schedule(320), tmp_path / "out", start=start)
    card = yaml.safe_load(file.with_suffix(".yaml").read_text())
    assert card["start"]["card"]["defense"] == "none"


def test_the_inner_attack_raises_the_error_inside_its_ball(noisy: Folder) -> None:
    torch.manual_seed(0)
    model = Tiny().train()
    images = torch.stack([noisy.image(i) for i in range(8)]).float() / 255
    labels = torch.tensor([noisy.mos(i) for i in range(8)])
    attacked = inner_attack(model, images, labels, 4 / 255, 3)
    assert model.training
    assert (attacked - images).abs().max() <= 4 / 255 + 1e-6
    model.eval()
    assert ((model(attacked) - labels) ** 2 > (model(images) - labels) ** 2).all()


def test_training_refuses_what_it_cannot_do(noisy: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="jpeg is not trained"):
        fit("tiny", "jpeg", noisy, schedule(160), tmp_path)
    with pytest.raises(UserError, match="less than one step"):
        fit("tiny", "none", noisy, schedule(3), tmp_path)
    with pytest.raises(UserError, match="cnniqa has none"):
        fit("cnniqa", "cprl-sortmask", noisy, schedule(160), tmp_path)


@pytest.mark.parametrize("steps", [1, 2, 19, 20, 21, 40])
def test_a_training_may_have_any_number_of_steps(noisy: Folder, tmp_path: Path, steps: int) -> None:
    """The warm-up is 5 % of the steps; where that is one step, its ramp has no length."""
    schedule = Schedule(passes=2 * steps, batch=2, crop=32, workers=0)
    written = fit("tiny", "none", noisy, schedule, tmp_path / "weights")
    assert yaml.safe_load(written.with_suffix(".yaml").read_text())["budget"]["steps"] == steps
