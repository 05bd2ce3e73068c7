"""Compare an attack or a defense with others on shipped models and a few demo images, for `iqarena check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from scipy import stats

from iqarena.attacks.base import Generators
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat
from iqarena.attacks.whole_set import SetAttack
from iqarena.bench.cells import SIZES, Cell, expand
from iqarena.bench.datasets import open_dataset
from iqarena.bench.errors import CannotRun, UserError, describe
from iqarena.bench.evaluation.crafting import seed_of
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.evaluation.judge import quantize
from iqarena.bench.inference.finding import Finding
from iqarena.bench.inference.isolation import OutOfMemory
from iqarena.bench.process import asks_to_stop
from iqarena.bench.registry import ATTACKS
from iqarena.bench.suite import validated

MODELS = ("cnniqa", "resnet-iqa")
REFERENCE_ATTACKS = ("pgd", "standard")
"""Attacks that a checked attack is compared with."""
ATTACKERS = {
    "oblivious": ("pgd", "oblivious"),
    "adaptive": ("pgd", "adaptive"),
    "black-box": ("square[queries=60]", "adaptive"),
}
"""The attacks on a checked defense: attack and setting by column name."""
IMAGES_OF_AN_ATTACK = 4
"""Only a few, since `standard` takes about ten seconds per image and model."""
IMAGES_OF_A_DEFENSE = 24

MASKING_MARGIN = 0.02
"""A gradient counts as masked if the shift of a black-box attack exceeds that of a gradient attack by more quality units."""

Row = dict[str, Any]


@contextmanager
def _plugin_errors_as_reasons() -> Iterator[None]:
    """Turn any exception of a plugin into a reason, as a run turns it into a status.

    Raises:
        CannotRun: with the reason.
    """
    try:
        yield
    except (CannotRun, UserError):
        raise
    except OutOfMemory as error:
        raise CannotRun(f"out of memory: {error}") from None
    except BaseException as error:
        if asks_to_stop(error):
            raise
        raise CannotRun(describe(error)) from None


class _ModelUnderTest:
    """A defended model with a few images and their clean scores.

    Raises:
        CannotRun: where the model raises.
    """

    def __init__(self, evaluator: Evaluator, model: str, defense: str = "none") -> None:
        self.evaluator, self.model, self.defense = evaluator, model, defense
        with _plugin_errors_as_reasons():
            self.clean = evaluator.scorer.clean(model, defense, 0)
        self.labels = torch.tensor([sample.mos for sample in evaluator.samples])

    def cell(self, attack: str, norm: str, setting: str = "adaptive") -> Cell:
        """Return a cell of an attack with its usual objective and the usual size of a norm."""
        suite = {
            "models": [self.model],
            "defenses": [self.defense],
            "attacks": [attack],
            "settings": [setting],
            "threats": [{"norm": norm, "eps": SIZES[norm]}],
        }
        return expand(validated(suite))[0]

    def after(self, cell: Cell) -> tuple[torch.Tensor, Row]:
        """Return qualities (N,) under attack, and the passes and seconds of the attack per image.

        Raises:
            CannotRun: where the attack does not support the cell or raises.
        """
        self.evaluator.ids.check(cell)
        with _plugin_errors_as_reasons():
            crafted = self.evaluator.attacked.crafted(cell)
        if crafted.errors:
            raise CannotRun(crafted.errors[0])
        passes = {name: float(crafted.table[name].mean()) for name in ("forwards", "backwards")}
        return self.score(crafted.pixels), passes | {"seconds": crafted.seconds / len(self.clean)}

    def score(self, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Score stored images with the deployed model, (N,)."""
        with _plugin_errors_as_reasons():
            return self.evaluator.scorer.score(self.model, self.defense, pixels, "check")

    def seconds(self) -> float:
        """Measure the seconds per image of the deployed model."""
        with _plugin_errors_as_reasons():
            return self.evaluator.scorer.speed(self.model, self.defense)[0]

    def shift(self, after: torch.Tensor) -> float:
        """Return the mean of |q' − q|."""
        return float((after - self.clean).abs().mean())

    def noise(self, threat: Threat) -> torch.Tensor:
        """Return qualities (N,) under uniform noise that fills the threat model; unlike `random-noise`, under every norm."""
        attacked = []
        for sample, clean in zip(self.evaluator.samples, self.evaluator.images, strict=True):
            image = clean[None].float() / 255
            drawn = Generators([seed_of("noise", sample.image_id)]).uniform(-1, 1, image.shape[1:])
            noisy = image + (threat.size if threat.norm == "linf" else 1) * drawn
            attacked.append(quantize(threat.snap(threat.project(noisy, image), image), clean[None], threat).pixels[0])
        return self.score(attacked)


def compare_attack(
    spec: str,
    models: Sequence[str] = MODELS,
    limit: int = IMAGES_OF_AN_ATTACK,
    references: Sequence[str] = REFERENCE_ATTACKS,
) -> tuple[list[Row], list[Finding]]:
    """Compare an attack with random noise and other attacks, at its usual objective and the usual size of its first norm.

    Returns:
        A row per model and attack: mean |shift| of quality, gain (decrease of the objective's loss; None for a set-level
        attack, which chooses its own targets), passes and seconds per image. And the finding whether the attack is stronger
        than noise on at least one model.
    """
    attack = ATTACKS.build(spec)
    evaluator = Evaluator(open_dataset("demo"), limit, 16)
    rows: list[Row] = []
    won: list[str] = []
    lost: list[str] = []
    for model in models:
        try:
            subject = _ModelUnderTest(evaluator, model)
            cell = subject.cell(spec, attack.norms[0])
            noise_cost: Row = {"forwards": 0.0, "backwards": 0.0, "seconds": None}
            after = {spec: subject.after(cell), "random noise": (subject.noise(cell.threat), noise_cost)}
        except CannotRun as reason:
            lost.append(f"{model}: {reason}")
            continue
        objective = Objective(cell.objective, subject.clean, float(subject.clean.mean()), subject.labels)
        for name in references:
            objectives = ATTACKS.build(name).objectives
            kind = cell.objective if cell.objective in objectives else subject.cell(name, cell.norm).objective
            try:
                after.setdefault(name, subject.after(replace(cell, attack=name, objective=kind)))
            except CannotRun:  # for example, it does not support this norm
                continue
        for name, (qualities, cost) in after.items():
            gain = float((objective.loss(subject.clean) - objective.loss(qualities)).mean())
            shown_gain = None if isinstance(attack, SetAttack) else gain
            rows.append({"model": model, "attack": name, "shift": subject.shift(qualities), "gain": shown_gain, **cost})
        measure = "shift" if isinstance(attack, SetAttack) else "gain"
        value, noise = (next(r[measure] for r in rows if (r["model"], r["attack"]) == (model, n)) for n in list(after)[:2])
        (won if value > noise else lost).append(f"{measure} {value:.3f} beside {noise:.3f} of noise on {model}")
    advice = "make objective.loss of the target's quality small; try more steps, or larger ones"
    return rows, [Finding("stronger than noise", bool(won), "; ".join(won or lost), advice)]


def compare_defense(
    spec: str, models: Sequence[str] = MODELS, limit: int = IMAGES_OF_A_DEFENSE
) -> tuple[list[Row], list[Finding]]:
    """Compare a defense with no defense: its effect on clean images, and its robustness to oblivious and adaptive attacks.

    Returns:
        A row per model and defense: SROCC of the clean images with their labels, mean |shift| of quality under the
        white-box attack (oblivious and adaptive) and the black-box one, seconds per image. And the finding whether the
        gradient of the surrogate is masked.
    """
    evaluator = Evaluator(open_dataset("demo"), limit, 16)
    rows: list[Row] = []
    masked: list[str] = []
    fine: list[str] = []
    for model in models:
        try:
            evaluator.pool.ready(model, spec)
        except CannotRun as reason:
            fine.append(f"{model}: {reason}")
            continue
        try:
            subjects = [_ModelUnderTest(evaluator, model, defense) for defense in dict.fromkeys(("none", spec))]
            seconds = [subject.seconds() for subject in subjects]
        except CannotRun as reason:
            masked.append(f"{model}: {reason}")
            continue
        for subject, speed in zip(subjects, seconds, strict=True):
            shifts: dict[str, float | None] = {}
            for title, (attack, setting) in ATTACKERS.items():
                try:
                    shifts[title] = subject.shift(subject.after(subject.cell(attack, "linf", setting))[0])
                except CannotRun:
                    shifts[title] = None
            srocc = stats.spearmanr(subject.clean, subject.labels).statistic
            rows.append({"model": model, "defense": subject.defense, "srocc": float(srocc), **shifts, "seconds": speed})
        white, black = shifts["adaptive"], shifts["black-box"]
        if white is not None and black is not None:
            text = f"{white:.3f} by gradient, {black:.3f} by scores alone on {model}"
            (masked if black > white + MASKING_MARGIN else fine).append(text)
    advice = "give surrogate() a gradient that leads somewhere: a smooth stand-in, or the identity's (see surrogate_kind)"
    return rows, [Finding("no masked gradient", not masked, "shift " + "; ".join(masked or fine), advice)]
