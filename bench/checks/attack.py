"""The conduct of an attack, against what it says of itself and what every attack must keep to.

Images are noise, flat ones, the ends of the range and one of odd sides, at most 47 pixels wide; the model is `Linear`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import torch

from iqarena.attacks.base import Access, Attack
from iqarena.attacks.fitted import FittedAttack
from iqarena.attacks.objective import Kind
from iqarena.attacks.threat import Norm, Threat
from iqarena.attacks.whole_set import SetAttack
from iqarena.bench.checks.declaration import declared
from iqarena.bench.checks.toy_run import Linear, ToyRun, run_on_toy_model
from iqarena.bench.evaluation.judge import inside_threat
from iqarena.bench.inference.finding import Finding
from iqarena.bench.inference.isolation import streams_kept

SIDE = 24
ODD = (33, 47)
LIMITS = (1, 2, 7, 50)
"""Query limits that an attack must keep to; the clean score is paid from them."""

SIZES: dict[Norm, tuple[float, float, float]] = {
    "linf": (2 / 255, 1 / 255, 0.0123),
    "l2": (0.5, 0.2, 1.3),
    "l0": (0.05, 0.02, 0.031),
    "patch": (0.1, 0.05, 0.07),
    "ssim": (0.02, 0.005, 0.03),
}
"""Of each norm a usual size for images of some hundred pixels, a small one, and one that is no whole number of levels."""

ALIKE = 0.01
"""Share of the values that may differ by one level where an image is attacked in other company: what falls on a level's
edge, float32 rounds another way when sums are taken in another order."""

_Measured = tuple[bool, str]


class _Subject:
    """An attack with its trials; each is made once, when it is asked for."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.kind: Kind = next((kind for kind in ("away", "lower") if kind in attack.objectives), attack.objectives[0])
        self.trials: dict[str, ToyRun] = {}
        self.refused: dict[str, str] = {}
        self.threat = Threat(attack.norms[0], SIZES[attack.norms[0]][0])
        noise = _noise(7, SIDE, SIDE)
        two = noise[: 2 if attack.batches else 1]
        for norm in attack.norms:
            usual, small, odd = (Threat(norm, size) for size in SIZES[norm])
            self._try(f"noise, {norm}", two, usual)
            self._try(f"flat images, {norm}", _flat(), small)
            self._try(f"odd sides, {norm}", _noise(1, *ODD), odd)
        for kind in attack.objectives:
            if kind != self.kind:
                self._try(kind, two, self.threat, kind=kind)
        self._try("lower is better", two, self.threat, model=Linear(higher_is_better=False))
        if attack.limited:
            for limit in LIMITS:
                limited = Threat(self.threat.norm, self.threat.size, limit)
                self._try(f"{limit} queries", two, limited)
        for reseed in (torch.manual_seed, np.random.seed, random.seed):
            reseed(12345)  # the global streams hold something else now
        self._try("again", two, self.threat)
        if attack.batches:
            self._try("seven", noise, self.threat)
            for place in (0, 5) if not isinstance(attack, SetAttack) else ():
                self._try(f"alone {place}", noise[place : place + 1], self.threat, seeds=[place])
        if torch.cuda.is_available():
            self._try("GPU", two, self.threat, device="cuda")

    def _try(self, name: str, clean: torch.Tensor, threat: Threat, kind: Kind | None = None, **how: Any) -> None:
        reason = self.attack.refusal(threat, *clean.shape[2:])
        if reason:
            self.refused[name] = reason
        else:
            self.trials[name] = run_on_toy_model(self.attack, clean, kind or self.kind, threat, **how)

    @property
    def usual(self) -> ToyRun:
        return self.trials[f"noise, {self.threat.norm}"]

    def some(self, *names: str) -> Iterator[tuple[str, ToyRun]]:
        """The trials whose names begin so; all if none is given."""
        yield from ((name, trial) for name, trial in self.trials.items() if not names or name.startswith(names))


def _noise(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(height))


def _flat() -> torch.Tensor:
    """Black, white, grey, and half black and half white, each sharply."""
    levels = torch.tensor([0, 255, 128, 0], dtype=torch.uint8).view(4, 1, 1, 1)
    images = levels.expand(4, 3, SIDE, SIDE).clone()
    images[3, :, :, SIDE // 2 :] = 255
    return images


def _told_of(wrong: dict[str, str]) -> str:
    """Where it went wrong, and how, at the first place."""
    place, how = next(iter(wrong.items()))
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return f"{place}: {how}{more}"


def _runs(subject: _Subject) -> _Measured:
    wrong = {name: trial.error for name, trial in subject.some("noise", "seven", "again") if trial.error}
    nothing = f"refuses all images: {next(iter(subject.refused.values()), '')}"
    return bool(subject.trials) and not wrong, _told_of(wrong) if wrong else nothing if not subject.trials else (
        f"{len(subject.trials)} times, under {', '.join(subject.attack.norms)}"
    )


def _returns(subject: _Subject) -> _Measured:
    wrong = {}
    for name, trial in subject.some():
        returned, shape = trial.returned, tuple(trial.clean.shape)
        if trial.error:
            continue
        if not isinstance(returned, torch.Tensor):
            wrong[name] = f"{type(returned).__name__}, not a tensor"
        elif tuple(returned.shape[1:]) != shape[1:]:
            wrong[name] = f"shape {tuple(returned.shape)} for images of {shape}"
        elif returned.dtype != torch.float32:
            wrong[name] = f"{returned.dtype}, not float32".replace("torch.", "")
        elif returned.requires_grad:
            wrong[name] = "a tensor that still has a graph"
        elif name != "GPU" and returned.device.type != "cpu":
            wrong[name] = f"on {returned.device}, not on the images' device"
        elif not returned.isfinite().all():
            wrong[name] = "NaN or infinities"
    return not wrong, _told_of(wrong) if wrong else "finite float32 images of the same shape"


def _threat(subject: _Subject) -> _Measured:
    wrong, most = {}, 0.0
    for name, trial in subject.some():
        if trial.stored is None:
            continue
        held = inside_threat(trial.stored.pixels, trial.clean, trial.threat)
        out = int(trial.stored.left_ball.sum())
        if out or not held.all():
            wrong[name] = f"{out} of {len(held)} images left {trial.threat.norm} ≤ {trial.threat.size:.4g}"
        if trial.returned is not None and trial.threat.norm == "linf":
            most = max(most, float((trial.returned.cpu() - trial.clean.float() / 255).abs().max()) / trial.threat.size)
    seen = "all images inside, as returned and as stored"
    return not wrong, _told_of(wrong) if wrong else seen + (f"; up to {most:.0%} of the ℓ∞ radius" if most else "")


def _seed(subject: _Subject) -> _Measured:
    one, two = subject.usual.stored, subject.trials["again"].stored
    if one is None or two is None:
        return False, "nothing to compare"
    differ = float((one.pixels != two.pixels).float().mean())
    return differ == 0, f"{differ:.0%} of the bytes differ under one seed" if differ else "the same bytes under one seed"


def _budget(subject: _Subject) -> _Measured:
    if not subject.attack.limited:
        return True, "keeps none, as it says: it is skipped where there is one"
    wrong = {}
    for limit in LIMITS:
        trial = subject.trials.get(f"{limit} queries")
        if trial is None:
            continue
        if trial.error:
            wrong[f"limit {limit}"] = trial.error
        elif int(trial.forwards.max()) > limit:
            wrong[f"limit {limit}"] = f"{int(trial.forwards.max())} forward passes"
    return not wrong, _told_of(wrong) if wrong else f"kept limits of {', '.join(map(str, LIMITS))} forward passes an image"


def _counted(subject: _Subject) -> _Measured:
    wrong = {name: f"{trial.uncounted} images scored past the target" for name, trial in subject.some() if trial.uncounted}
    return not wrong, _told_of(wrong) if wrong else "asked the model through the target only"


def _cost(subject: _Subject) -> _Measured:
    attack, passes = subject.attack, subject.attack.passes
    forwards = max(int(trial.forwards.max()) for _, trial in subject.some()) - (attack.access != "none")
    backwards = max(int(trial.backwards.max()) for _, trial in subject.some())
    seen = f"{forwards} forwards and {backwards} backwards an image"
    if passes is None or isinstance(attack, FittedAttack):
        return True, f"{seen}; says nothing of it" if passes is None else f"{seen}, once fitted"
    ok = forwards <= passes[0] and backwards <= passes[1]
    return ok, f"{seen}; says {passes[0]} and {passes[1]} at most"


def _access(subject: _Subject) -> _Measured:
    """A gradient or score that was declared and never asked for rules out models for nothing."""
    attack = subject.attack
    if isinstance(attack, FittedAttack) or attack.control:
        return True, f"needs {attack.access}"
    forwards = max(int(trial.forwards.max()) for _, trial in subject.some()) - (attack.access != "none")
    backwards = max(int(trial.backwards.max()) for _, trial in subject.some())
    used = "gradient" if backwards else "score" if forwards else "none"
    fits = attack.access in (used, "set")
    return fits, f"says {attack.access!r}" + ("" if fits else f", used {used!r}")


def _untouched(subject: _Subject) -> _Measured:
    wrong = {name: " and ".join(sorted(trial.touched)) for name, trial in subject.some() if trial.touched}
    return not wrong, f"changed: {_told_of(wrong)}" if wrong else "images, model, global random streams, settings, itself"


def _batch(subject: _Subject) -> _Measured:
    if not subject.attack.batches:
        return True, "takes one image at a time, as it says"
    together = subject.trials["seven"]
    if isinstance(subject.attack, SetAttack):
        return not together.error, together.error or "seven images at once; the set counts, as it says"
    worst, levels = 0.0, 0
    for name, trial in subject.some("alone"):
        place = int(name.split()[1])
        if trial.error or together.error:
            return False, f"{name if trial.error else 'seven at once'}: {trial.error or together.error}"
        if trial.stored is None or together.stored is None:
            return False, "nothing to compare"
        apart = (trial.stored.pixels[0].int() - together.stored.pixels[place].int()).abs()
        worst, levels = max(worst, float((apart > 0).float().mean())), max(levels, int(apart.max()))
    alike = worst <= ALIKE and levels <= 1
    return alike, f"an image alone and among seven: {worst:.1%} of the values differ, by {levels} levels at most"


def _of_scene(*names: str, seen: str) -> Callable[[_Subject], _Measured]:
    def look(subject: _Subject) -> _Measured:
        refused = [reason for name, reason in subject.refused.items() if name.startswith(names)]
        wrong = {name: trial.error for name, trial in subject.some(*names) if trial.error}
        return not wrong, _told_of(wrong) if wrong else seen + (f"; refuses some: {refused[0]}" if refused else "")

    return look


def _directions(subject: _Subject) -> _Measured:
    """Some objective is come nearer to and none is left, also where the raw score is better when it is lower.

    What a fitted attack has learnt on other images may miss these.
    """
    if subject.attack.control:
        return True, "a control: it has none"
    wrong, nearer = {}, []
    scenes = [(f"noise, {subject.threat.norm}", subject.kind), ("lower is better", subject.kind)]
    scenes += [(kind, kind) for kind in subject.attack.objectives if kind != subject.kind]
    for name, kind in scenes:
        trial, where = subject.trials.get(name), kind if name == kind else f"{kind}, {name}"
        if trial is None or trial.losses is None:
            wrong[where] = trial.error if trial else "no image was taken"
            continue
        before, after = (float(loss.mean()) for loss in trial.losses)
        if after < before:
            nearer.append(where)
        elif after > before and not isinstance(subject.attack, FittedAttack):
            wrong[where] = f"mean loss {before:.4g} before, {after:.4g} after"
    if not nearer:
        wrong.setdefault("every objective", "no loss became less")
    return not wrong, _told_of(wrong) if wrong else f"comes nearer to {'; '.join(nearer)}"


def _gpu(subject: _Subject) -> _Measured:
    trial = subject.trials.get("GPU")
    if trial is None:
        return True, "not asked: there is none here"
    if trial.error:
        return False, trial.error
    if trial.returned is None or trial.returned.device.type != "cuda":
        return False, "returned images that are not on the GPU"
    return True, "works, and returns images on it"


_STAY = "finish with threat.snap(threat.project(attacked, images), images)"

_CHECKS: tuple[tuple[str, Callable[[_Subject], _Measured], str], ...] = (
    ("runs", _runs, "attack images (N, 3, H, W) of any size and N, or refuse them with a reason in refusal()"),
    ("returns", _returns, "return a float32 tensor (N, 3, H, W) like images, detached, with no NaN in it"),
    ("threat model", _threat, f"stay inside every norm that norms names: {_STAY}"),
    ("seed", _seed, "draw from the generator that run() is given, and from nothing else"),
    ("query budget", _budget, "ask target.queries_left before every question and stop at 0, or say limited = False"),
    ("counting", _counted, "ask target.quality and target.quality_and_grad, never target.model"),
    ("cost", _cost, "let passes return the most forward and backward passes of an image, or None"),
    ("access", _access, 'set access to what the attack asks for: "gradient", "score" or "none"'),
    ("leaves alone", _untouched, "work on copies, keep nothing on self, set no seed and no setting of torch"),
    ("batch", _batch, "let an image's result depend on that image and its own stream only, or say batches = False"),
    ("odd sizes", _of_scene("odd sides", seen=f"{ODD[1]}×{ODD[0]}"), "take any height and width, or refuse() it"),
    (
        "flat images",
        _of_scene("flat", seen="black, white, grey and a hard edge"),
        "keep divisions away from zero: flat areas have no variance, and their gradient may be zero",
    ),
    ("both directions", _directions, "make objective.loss(quality) small, whatever the objective, and nothing else"),
    ("GPU", _gpu, "make tensors on the images' device: .to(images)"),
)


def attack_facts(attack: Attack) -> dict[str, Any]:
    """What an attack says of itself."""
    cost = attack.passes and f"{attack.passes[0]} forwards and {attack.passes[1]} backwards an image at most"
    kind = "control" if attack.control else "fitted" if isinstance(attack, FittedAttack) else attack.access
    return {
        "needs": kind,
        "norms": " ".join(attack.norms),
        "objectives": " ".join(attack.objectives),
        "cost": cost,
        "paper": attack.paper,
    }


def probe_attack(attack: Attack) -> list[Finding]:
    """What an attack does on a tiny model, check by check; the global random streams are left as they were.

    One whose class attributes make no sense has the findings about them alone.
    """
    findings = [*declared(attack, paper_wanted=not attack.control), _class_attributes(attack)]
    if not findings[-1].ok:
        return findings
    with streams_kept():
        subject = _Subject(attack)
    for name, look, advice in _CHECKS:
        ok, measured = look(subject)
        findings.append(Finding(name, ok, measured, advice))
        if name == "runs" and not ok and all(trial.error for trial in subject.trials.values()):
            break  # nothing else could be seen
    return findings


def _class_attributes(attack: Attack) -> Finding:
    wrong = []
    if attack.access not in get_args(Access):
        wrong.append(f"access {attack.access!r}, not one of {', '.join(get_args(Access))}")
    for name, known in (("norms", get_args(Norm)), ("objectives", get_args(Kind))):
        found = getattr(attack, name)
        if not isinstance(found, tuple) or not found or not set(found) <= set(known):
            wrong.append(f"{name} {found!r}, not a tuple of {', '.join(known)}")
    told = wrong[0] if wrong else f"{attack.access}; {' '.join(attack.norms)}; {' '.join(attack.objectives)}"
    return Finding("class attributes", not wrong, told, "set access, norms and objectives to known words")
