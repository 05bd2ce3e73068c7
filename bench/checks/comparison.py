"""How an attack or a defense compares on shipped models and a few demo images, for `iqarena check`."""

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
from iqarena.bench.registry import ATTACKS
from iqarena.bench.suite import validated

MODELS = ("cnniqa", "resnet-iqa")
BESIDE = ("pgd", "standard")
"""Attacks that an attack is set beside."""
ATTACKERS = {
    "oblivious": ("pgd", "oblivious"),
    "adaptive": ("pgd", "adaptive"),
    "black-box": ("square[queries=60]", "adaptive"),
}
"""Whom a defense meets: attack and setting."""
IMAGES_OF_AN_ATTACK = 4
"""Few: `standard` takes some ten seconds an image and model."""
IMAGES_OF_A_DEFENSE = 24

MASKED = 0.02
"""Quality units by which a black-box attack may do better than a gradient before the gradient is called misleading."""

Row = dict[str, Any]


@contextmanager
def _asked() -> Iterator[None]:
    """Whatever goes wrong in a plugin that is asked inside is a reason, as it is a status in a run.

    Raises:
        CannotRun: with the reason.
    """
    try:
        yield
    except (CannotRun, UserError):
        raise
    except OutOfMemory as error:
        raise CannotRun(f"out of memory: {error}") from None
    except (Exception, SystemExit) as error:
        raise CannotRun(describe(error)) from None


class _ModelUnderTest:
    """A model behind a defense, and a few images to attack it with.

    Raises:
        CannotRun: where the model cannot be asked.
    """

    def __init__(self, evaluator: Evaluator, model: str, defense: str = "none") -> None:
        self.evaluator, self.model, self.defense = evaluator, model, defense
        with _asked():
            self.clean = evaluator.scorer.clean(model, defense, 0)
        self.labels = torch.tensor([sample.mos for sample in evaluator.samples])

    def cell(self, attack: str, norm: str, setting: str = "adaptive") -> Cell:
        """An attack at its usual objective and size."""
        suite = {
            "models": [self.model],
            "defenses": [self.defense],
            "attacks": [attack],
            "settings": [setting],
            "threats": [{"norm": norm, "eps": SIZES[norm]}],
        }
        return expand(validated(suite))[0]

    def after(self, cell: Cell) -> tuple[torch.Tensor, Row]:
        """Qualities (N,) under attack, and what the attack took an image.

        Raises:
            CannotRun: where the attack cannot be run so.
        """
        self.evaluator.ids.check(cell)
        with _asked():
            crafted = self.evaluator.attacked.crafted(cell)
        if crafted.errors:
            raise CannotRun(crafted.errors[0])
        took = {name: float(crafted.table[name].mean()) for name in ("forwards", "backwards")}
        return self.score(crafted.pixels), took | {"seconds": crafted.seconds / len(self.clean)}

    def score(self, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Deployed qualities (N,) of stored images."""
        with _asked():
            return self.evaluator.scorer.score(self.model, self.defense, pixels, "check")

    def seconds(self) -> float:
        """An image, of the deployed model."""
        with _asked():
            return self.evaluator.scorer.speed(self.model, self.defense)[0]

    def shift(self, after: torch.Tensor) -> float:
        """Mean |q' − q|."""
        return float((after - self.clean).abs().mean())

    def noise(self, threat: Threat) -> torch.Tensor:
        """Qualities (N,) under uniform noise that fills the threat model; unlike `random-noise` under every norm."""
        found = []
        for sample, clean in zip(self.evaluator.samples, self.evaluator.images, strict=True):
            image = clean[None].float() / 255
            drawn = Generators([seed_of("noise", sample.image_id)]).uniform(-1, 1, image.shape[1:])
            moved = image + (threat.size if threat.norm == "linf" else 1) * drawn
            found.append(quantize(threat.snap(threat.project(moved, image), image), clean[None], threat).pixels[0])
        return self.score(found)


def compare_attack(
    spec: str, models: Sequence[str] = MODELS, limit: int = IMAGES_OF_AN_ATTACK, beside: Sequence[str] = BESIDE
) -> tuple[list[Row], list[Finding]]:
    """An attack beside random noise and others, at its own objective and the usual size of its first norm.

    Returns:
        A row a model and attack: mean |shift| of quality, gain (how much nearer to the objective, in units of its loss;
        None for a set-level attack, whose aims are its own), passes and seconds an image. And the finding whether it is
        stronger than noise on some model.
    """
    attack = ATTACKS.build(spec)
    evaluator = Evaluator(open_dataset("demo"), limit, 16)
    rows: list[Row] = []
    won: list[str] = []
    lost: list[str] = []
    for model in models:
        try:
            ring = _ModelUnderTest(evaluator, model)
            own = ring.cell(spec, attack.norms[0])
            noise_took: Row = {"forwards": 0.0, "backwards": 0.0, "seconds": None}
            after = {spec: ring.after(own), "random noise": (ring.noise(own.threat), noise_took)}
        except CannotRun as reason:
            lost.append(f"{model}: {reason}")
            continue
        objective = Objective(own.objective, ring.clean, float(ring.clean.mean()), ring.labels)
        for name in beside:
            able = ATTACKS.build(name).objectives
            usual = own.objective if own.objective in able else ring.cell(name, own.norm).objective
            try:
                after.setdefault(name, ring.after(replace(own, attack=name, objective=usual)))
            except CannotRun:  # under this norm
                continue
        for name, (qualities, took) in after.items():
            gain = float((objective.loss(ring.clean) - objective.loss(qualities)).mean())
            gained = None if isinstance(attack, SetAttack) else gain
            rows.append({"model": model, "attack": name, "shift": ring.shift(qualities), "gain": gained, **took})
        measure = "shift" if isinstance(attack, SetAttack) else "gain"
        mine, noise = (next(r[measure] for r in rows if (r["model"], r["attack"]) == (model, n)) for n in list(after)[:2])
        (won if mine > noise else lost).append(f"{measure} {mine:.3f} beside {noise:.3f} of noise on {model}")
    advice = "make objective.loss of the target's quality small; try more steps, or larger ones"
    return rows, [Finding("stronger than noise", bool(won), "; ".join(won or lost), advice)]


def compare_defense(
    spec: str, models: Sequence[str] = MODELS, limit: int = IMAGES_OF_A_DEFENSE
) -> tuple[list[Row], list[Finding]]:
    """A defense beside none: what it costs on clean images, and what attackers do who know of it and who do not.

    Returns:
        A row a model and defense: SROCC of the clean images with their labels, mean |shift| of quality under the
        white-box attack (oblivious and adaptive) and the black-box one, seconds an image. And the finding whether the
        gradient that the defense offers leads anywhere.
    """
    evaluator = Evaluator(open_dataset("demo"), limit, 16)
    rows: list[Row] = []
    masked: list[str] = []
    seen: list[str] = []
    for model in models:
        try:
            evaluator.pool.ready(model, spec)
        except CannotRun as reason:
            seen.append(f"{model}: {reason}")
            continue
        try:
            rings = [_ModelUnderTest(evaluator, model, defense) for defense in dict.fromkeys(("none", spec))]
            seconds = [ring.seconds() for ring in rings]
        except CannotRun as reason:
            masked.append(f"{model}: {reason}")
            continue
        for ring, took in zip(rings, seconds, strict=True):
            shifts: dict[str, float | None] = {}
            for title, (attack, setting) in ATTACKERS.items():
                try:
                    shifts[title] = ring.shift(ring.after(ring.cell(attack, "linf", setting))[0])
                except CannotRun:
                    shifts[title] = None
            srocc = stats.spearmanr(ring.clean, ring.labels).statistic
            rows.append({"model": model, "defense": ring.defense, "srocc": float(srocc), **shifts, "seconds": took})
        white, black = shifts["adaptive"], shifts["black-box"]
        if white is not None and black is not None:
            words = f"{white:.3f} by gradient, {black:.3f} by scores alone on {model}"
            (masked if black > white + MASKED else seen).append(words)
    advice = "give surrogate() a gradient that leads somewhere: a smooth stand-in, or the identity's (see surrogate_kind)"
    return rows, [Finding("no masked gradient", not masked, "shift " + "; ".join(masked or seen), advice)]
