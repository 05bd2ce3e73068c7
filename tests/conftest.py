"""Tiny models whose best attack is known on paper, pictures that break things, and one way to run an attack on them."""

from __future__ import annotations

import math
import os
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from iqarena.attacks.base import Attack, Generators
from iqarena.attacks.fitted import Fit, FittedAttack
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Norm, Threat
from iqarena.attacks.whole_set import SetAttack
from iqarena.bench.datasets.base import ImageDataset, Sample
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.evaluation.judge import Stored, quantize
from iqarena.bench.inference.target import Target, frozen
from iqarena.bench.process import use_threads
from iqarena.bench.results.store import Records
from iqarena.models.base import ModelInfo, QualityModel

if "PYTEST_XDIST_WORKER" in os.environ:  # with as many processes as cores, threads get in each other's way
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    use_threads(1)

hypothesis.settings.register_profile("iqarena", deadline=None, derandomize=True, database=None, max_examples=60)
hypothesis.settings.load_profile("iqarena")


class MeanModel(QualityModel):
    """The mean of all pixels."""

    info = ModelInfo("mean", min_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))


class LinearModel(QualityModel):
    """½ + Σ w·(x − ½): seeded weights, none of them zero, with Σ|w| = `reach`."""

    def __init__(self, height: int = 16, width: int = 16, seed: int = 0, reach: float = 10.0) -> None:
        super().__init__()
        self.info = ModelInfo("linear", min_size=1)
        weights = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
        weights = weights + 0.05 * weights.sign()
        self.weight = torch.nn.Parameter(weights * (reach / weights.abs().sum()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.5 + (self.weight * (images - 0.5)).sum(dim=(1, 2, 3))


class QuadraticModel(QualityModel):
    """1 − mean((x − c)²)."""

    info = ModelInfo("quadratic", min_size=1)

    def __init__(self, center: float = 0.4) -> None:
        super().__init__()
        self.center = center

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 1 - ((images - self.center) ** 2).mean(dim=(1, 2, 3))


class StochasticModel(QualityModel):
    """The mean pixel, each pixel under a random weight that is one on average; drawn from torch's global stream."""

    info = ModelInfo("stochastic", min_size=1, stochastic=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * (1 + 0.5 * torch.randn(images.shape))).mean(dim=(1, 2, 3))


class NaNModel(QualityModel):
    """Not a number, whatever the picture; its gradient is not one either."""

    info = ModelInfo("nan", min_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3)) * math.nan


class WrongShapeModel(QualityModel):
    """Scores (N, 1) instead of (N,)."""

    info = ModelInfo("wrong-shape", min_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))[:, :1]


SMALL_THREATS: dict[Norm, Threat] = {
    "linf": Threat("linf", 2 / 255),
    "l2": Threat("l2", 0.5),
    "l0": Threat("l0", 0.05),
    "patch": Threat("patch", 0.1),
    "ssim": Threat("ssim", 0.02),
}
"""One threat model of each kind, for pictures of a few hundred pixels."""


SEARCHES = {
    "torchattacks:Square": "[n_queries=50]", "torchattacks:SPSA": "[nb_iter=2,nb_sample=16]",
    "torchattacks:OnePixel": "[steps=3]", "torchattacks:Pixle": "[max_iterations=3]", "art:SquareAttack": "[max_iter=20]",
    "art:SimBA": "[max_iter=40]", "art:HopSkipJump": "[max_iter=1]", "art:BoundaryAttack": "[max_iter=3]",
    "art:SignOPTAttack": "[query_limit=200]",
}  # fmt: skip
"""Searches of other libraries, with budgets for tests of conduct alone."""


def random_pixels(
    count: int, height: int = 16, width: int = 16, seed: int = 0, low: int = 0, high: int = 256
) -> torch.Tensor:
    """Pictures (count, 3, height, width) uint8, uniform in [low, high)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def craft(
    attack: Attack, model: QualityModel, clean: torch.Tensor, kind: Kind, threat: Threat, seeds: list[int] | None = None
) -> tuple[torch.Tensor, Stored, Target]:
    """Run an attack on pictures (N, 3, H, W) uint8 as the evaluator does; its own output, what is stored of it, the target.

    What has to be fitted is fitted on eight random pictures of the same size; a set-level attack takes `clean` as its set.
    """
    images = clean.float() / 255
    with frozen(model):
        target = Target(model, len(clean), attack.access, queries=threat.queries)
        quality = torch.full((len(clean),), math.nan) if attack.access == "none" else target.quality(images)
        objective = Objective(kind, quality)
        generators = Generators(seeds or list(range(len(clean))))
        if isinstance(attack, FittedAttack):
            learnt = fitted(attack, model, clean, kind, threat)
            attacked = attack.run(target, images, objective, threat, generators, fit=learnt)
        else:
            if isinstance(attack, SetAttack):
                seen = attack.look(target, images, objective, threat, generators)
                aims = attack.decide(quality, seen, torch.Generator().manual_seed(0))
                objective = Objective("target", quality, value=aims)
            attacked = attack.run(target, images, objective, threat, generators)
    assert torch.equal(images, clean.float() / 255), "an attack must not write into the pictures that it gets"
    assert not images.requires_grad
    return attacked, quantize(attacked, clean, threat), target


def moved_by_sign(clean: torch.Tensor, model: LinearModel, levels: float | torch.Tensor) -> torch.Tensor:
    """clip(x + levels·sign(w)), in bytes; `levels` is a number or one a picture."""
    steps = torch.as_tensor(levels).view(-1, 1, 1, 1) * model.weight.detach().sign()
    return (clean.float() + steps).clamp(0, 255).to(torch.uint8)


def one_by_one(attack: Attack, model: QualityModel, clean: torch.Tensor, kind: Kind, threat: Threat) -> torch.Tensor:
    """As the evaluator does for an attack that takes no batches."""
    return torch.cat([craft(attack, model, clean[i : i + 1], kind, threat, [i])[1].pixels for i in range(len(clean))])


def fitted(attack: FittedAttack, model: QualityModel, clean: torch.Tensor, kind: Kind, threat: Threat) -> Fit:
    """A fit of an attack on eight random pictures of the size of `clean`."""
    images = random_pixels(8, *clean.shape[2:], seed=99).float() / 255
    target = Target(model, len(images), attack.access)
    objective = Objective(kind, target.quality(images))
    return attack.fit(target, images, objective, threat, Generators([0]))


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    """What a user reads of an error, which is one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def _pictures() -> dict[str, torch.Tensor]:
    ramp = torch.arange(20, dtype=torch.uint8).mul(12).expand(3, 24, 20).contiguous()
    hard = (random_pixels(1, 24, 20, seed=2)[0] > 127).to(torch.uint8) * 255
    return {
        "random": random_pixels(1, 24, 20)[0],
        "grey": torch.full((3, 24, 20), 128, dtype=torch.uint8),
        "black": torch.zeros((3, 24, 20), dtype=torch.uint8),
        "white": torch.full((3, 24, 20), 255, dtype=torch.uint8),
        "saturated": hard,
        "gradient": ramp,
        "odd": random_pixels(1, 33, 47, seed=3)[0],
    }


@pytest.fixture
def pictures() -> dict[str, torch.Tensor]:
    """Pictures (3, H, W) uint8 by name: noise, flat ones, the ends of the range, a one-pixel-wide ramp, odd sides."""
    return _pictures()


@pytest.fixture(scope="session")
def natural() -> np.ndarray:
    """A natural crop, (96, 96, 3) uint8."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[20:116, 180:276])


@pytest.fixture
def data_root() -> Path:
    """Folder of the published data sets."""
    if not os.environ.get("IQARENA_DATA"):
        pytest.skip("IQARENA_DATA names no folder with data sets")
    return Path(os.environ["IQARENA_DATA"])


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """An empty results folder."""
    made = Records(tmp_path / "results")
    made.prepare()
    return made


class Textures:
    """In demo's place: forty pictures whose label is the strength of their noise, the first of them "pristine"."""

    def __init__(self) -> None:
        strengths = [1 - i / 40 for i in range(40)]
        self.samples = [Sample(f"{i}-{'pristine' if i == 0 else 'noise'}", str(i), mos) for i, mos in enumerate(strengths)]

    def spread(self, count: int) -> list[int]:
        return list(range(min(count, 40)))

    def picture(self, index: int) -> torch.Tensor:
        noise = random_pixels(1, 64, 64, seed=index)[0].float()
        return (128 + (noise - 128) * self.mos(index)).to(torch.uint8)

    def mos(self, index: int) -> float:
        return self.samples[index].mos


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts of a model are measured on pictures that are quickly made."""
    monkeypatch.setattr("iqarena.bench.inference.measured_info.Demo", Textures)


@pytest.fixture
def small(tmp_path: Path) -> ImageDataset:
    """Eight random pictures of four references, labelled by their mean."""
    root = tmp_path / "pictures"
    root.mkdir()
    rows = []
    stream = np.random.default_rng(3)
    for number in range(8):
        pixels = stream.integers(40 + 20 * number, 60 + 24 * number, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        rows.append((f"{number}.png", f"ref{number % 4}", float(pixels.mean() / 255)))
    pd.DataFrame(rows, columns=["image", "reference_id", "mos"]).to_csv(root / "labels.csv", index=False)
    return Folder(root)
