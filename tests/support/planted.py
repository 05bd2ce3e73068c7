"""Planted faults for the flags: ``python -m tests.support.planted`` prints which flags each raises, as in docs/flags.md.

Each case is a small model or defense with one fault, run through the evaluator on random images; the first has none. The
undefended model is linear, so that everything about it is known.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from PIL import Image

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat
from iqarena.bench.cells import expand
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import local
from iqarena.bench.registry import ATTACKS, DEFENSES, Entry
from iqarena.bench.results.flags import FLAGS, Flag
from iqarena.bench.results.report import flag_table
from iqarena.bench.results.store import Records
from iqarena.bench.suite import validated
from iqarena.defenses.base import Defense, Kind
from iqarena.models.base import ModelInfo, QualityModel

SIDE = 16
ATTACKED = ("random-noise", "fgsm", "pgd", "pgd[steps=40]", "square[queries=200]")
SIZES = (4 / 255, 8 / 255, 16 / 255)


class Linear(QualityModel):
    """The linear model ½ + Σ w·(x − ½), with weights that vary slowly over the image, so that searches find their signs."""

    def __init__(self, name: str = "linear", seed: int = 0, score_range: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        self.info = ModelInfo(name, score_range, min_size=1)
        coarse = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        weights = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="nearest")[0]
        self.weight = torch.nn.Parameter(weights * (8 / weights.abs().sum()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.5 + (self.weight * (images - 0.5)).sum(dim=(1, 2, 3))


class Defended(QualityModel):
    """Base of the planted defenses: the linear model with changed scores."""

    def __init__(self, model: QualityModel) -> None:
        super().__init__()
        self.model, self.info = model, model.info

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)


class Rounded(Defended):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = self.model(images)
        return scores.mul(200).round().div(200) + 0 * scores


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor) -> torch.Tensor:
        return scores.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return -gradient


class Turned(Defended):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _Turned.apply(self.model(images))


class Noisy(Defended):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images) + 0.005 * torch.randn(len(images))


class Optimises(Defended):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad((leaf**2).sum(), leaf)
        return self.model(images - 1e-4 * slope.detach())


class Centred(Defended):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = self.model(images)
        return scores + 0.1 * scores.mean()


@dataclass(frozen=True)
class Planted(Defense):
    """A defense that is registered for its case only."""

    kind: ClassVar[Kind] = "architecture"
    cls: ClassVar[type[Defended]] = Defended

    def protect(self, model: QualityModel) -> QualityModel:
        return self.cls(model)


@dataclass(frozen=True)
class Leaves(Attack):
    """An attack that leaves its ball."""

    name: ClassVar[str] = "leaves"
    access: ClassVar[Access] = "gradient"

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        return images + 2 * threat.size


@dataclass(frozen=True)
class Case:
    """A planted fault, and the flag that it should raise."""

    what: str
    flag: str | None
    cls: type[Defended] | None = None
    attacks: Sequence[str] = ATTACKED
    sizes: Sequence[float] = (8 / 255,)
    score_range: tuple[float, float] = (0.0, 1.0)
    transfer: bool = False
    settings: Sequence[str] = ("oblivious", "adaptive")


CASES = (
    Case("the plain model, all attacks, three sizes", None, sizes=SIZES, transfer=True),
    Case("an attack that returns images twice as far away as it may", "left-ball", attacks=("leaves", "pgd")),
    Case("scores rounded to 1/200: no gradient", "zero-gradient", Rounded),
    Case("a gradient of the wrong sign, against `square`", "black-box-wins", Turned, settings=("adaptive",)),
    Case("the same, against images crafted on a similar model", "transfer-wins", Turned, transfer=True,
         attacks=("pgd",), settings=("adaptive",)),
    Case("the same, against attacks on the undefended model", "adaptive-weaker", Turned, attacks=("pgd",)),
    Case("the same, in the second half of 40 steps", "more-steps-no-help", Turned, attacks=("pgd[steps=40]",)),
    Case("the same, at growing sizes, with gradient attacks alone", "no-collapse", Turned, attacks=("pgd",), sizes=SIZES,
         settings=("adaptive",)),
    Case("the same, against random noise", "noise-as-good", Turned, attacks=("pgd", "random-noise"), settings=("adaptive",)),
    Case("a score range much narrower than the scores are spread", "out-of-range", score_range=(0.4, 0.6)),
    Case("random numbers added to scores, and not said", "undeclared-randomness", Noisy),
    Case("a gradient step on the image before it is scored", "optimises-in-forward", Optimises),
    Case("a tenth of the batch's mean added to each score", "depends-on-batch", Centred),
)  # fmt: skip


def planted_images(root: Path) -> Folder:
    """Write 24 images of coarse noise of eight references, labelled by the linear model's score plus noise."""
    root.mkdir(parents=True)
    rng, model, rows = np.random.default_rng(3), Linear(), []
    for number in range(24):
        coarse = rng.integers(70, 186, (4, 4, 3), dtype=np.uint8)
        pixels = np.repeat(np.repeat(coarse, 4, axis=0), 4, axis=1)
        Image.fromarray(pixels).save(root / f"{number:02d}.png")
        score = float(model(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255).detach())
        rows.append((f"{number:02d}.png", f"ref{number % 8}", min(max(score + rng.normal(0, 0.1), 0), 1)))
    pd.DataFrame(rows, columns=["image", "reference_id", "mos"]).to_csv(root / "labels.csv", index=False)
    return Folder(root)


def flags_of(case: Case, dataset: Folder, out: Path) -> list[Flag]:
    """Run a case through the evaluator; return the flags of its row."""
    defense = type("_Planted", (Planted,), {"name": "planted", "cls": case.cls or Defended})
    DEFENSES.entries["planted"] = Entry("planted", defense)
    ATTACKS.entries["leaves"] = Entry("leaves", Leaves)
    try:
        models = {"linear": Linear(score_range=case.score_range), "similar": _similar()}
        suite = validated(
            {"dataset": "folder", "models": ["linear"], "defenses": ["none" if case.cls is None else "planted"],
             "attacks": [{"attack": a, "objectives": ["away"] if a != "random-noise" else None} for a in case.attacks],
             "threats": [{"eps": eps} for eps in case.sizes], "settings": list(case.settings),
             "transfer_from": ["similar"] if case.transfer else []}
        )  # fmt: skip
        records = Records(out)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # for defenses that draw random numbers without declaring it
            local.run(Evaluator(dataset, None, 24, models), expand(suite), records, report=lambda *_: None)
        rows = flag_table(records)
        return [Flag(row.flag, row.why) for row in rows.itertuples()]
    finally:
        del DEFENSES.entries["planted"], ATTACKS.entries["leaves"]


def _similar() -> Linear:
    model, other = Linear("similar"), Linear("similar", seed=1)
    with torch.no_grad():
        model.weight += 0.5 * other.weight
    return model


def line(case: Case, raised: Sequence[str]) -> str:
    """Format the row of docs/flags.md."""
    result = f"`{case.flag}`" if case.flag in raised else "**missed**" if case.flag else "none"
    others = ", ".join(f"`{name}`" for name in FLAGS if name in raised and name != case.flag)
    return f"| {case.what} | {result} | {others} |"


def table(cases: Iterable[Case] = CASES) -> str:
    """Return the table of docs/flags.md."""
    lines = ["| planted | flag | and along with it |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as scratch:
        dataset = planted_images(Path(scratch) / "images")
        for number, case in enumerate(cases):
            raised = [flag.name for flag in flags_of(case, dataset, Path(scratch) / str(number))]
            lines.append(line(case, raised))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
