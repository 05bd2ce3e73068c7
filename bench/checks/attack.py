"""Check an attack against its own declaration and against the contract of all attacks.

It is run on noise, on flat images at the ends of the range, and on an image with odd sides, at most 47 pixels wide; the
model is `LinearToy`.
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
from iqarena.bench.checks.toy_run import LinearToy, ToyRun, run_on_toy_model
from iqarena.bench.evaluation.judge import inside_threat
from iqarena.bench.inference.finding import Finding
from iqarena.bench.inference.isolation import streams_kept
from iqarena.bench.inference.process_state import settled

SIDE = 24
ODD = (33, 47)
LIMITS = (1, 2, 7, 50)
"""Query limits that an attack must respect; the clean score counts towards them."""

SIZES: dict[Norm, tuple[float, float, float]] = {
    "linf": (2 / 255, 1 / 255, 0.0123),
    "l2": (0.5, 0.2, 1.3),
    "l0": (0.05, 0.02, 0.031),
    "patch": (0.1, 0.05, 0.07),
    "ssim": (0.02, 0.005, 0.03),
}
"""For each norm: a usual size for images of a few hundred pixels, a small one, and one that is no whole number of levels."""

BATCH_TOLERANCE = 0.01
"""Share of the values that may differ by one level when an image is attacked in another batch: float32 sums in another
order round values between two levels differently."""

_Measured = tuple[bool, str]


class _Subject:
    """An attack with its runs on toy models, by name."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.kind: Kind = next((kind for kind in ("away", "lower") if kind in attack.objectives), attack.objectives[0])
        self.runs: dict[str, ToyRun] = {}
        self.refused: dict[str, str] = {}
        self.threat = Threat(attack.norms[0], SIZES[attack.norms[0]][0])
        noise = _noise(7, SIDE, SIDE)
        pair = noise[: 2 if attack.batches else 1]
        for norm in attack.norms:
            usual, small, fractional = (Threat(norm, size) for size in SIZES[norm])
            self._attack(f"noise, {norm}", pair, usual)
            self._attack(f"flat images, {norm}", _flat(), small)
            self._attack(f"odd sides, {norm}", _noise(1, *ODD), fractional)
        for kind in attack.objectives:
            if kind != self.kind:
                self._attack(kind, pair, self.threat, kind=kind)
        self._attack("lower is better", pair, self.threat, model=LinearToy(higher_is_better=False))
        if attack.limited:
            for limit in LIMITS:
                limited = Threat(self.threat.norm, self.threat.size, limit)
                self._attack(f"{limit} queries", pair, limited)
        for reseed in (torch.manual_seed, np.random.seed, random.seed):
            reseed(12345)  # another state of the global random streams
        self._attack("again", pair, self.threat)
        if attack.batches:
            self._attack("seven", noise, self.threat)
            for index in (0, 5) if not isinstance(attack, SetAttack) else ():
                self._attack(f"alone {index}", noise[index : index + 1], self.threat, seeds=[index])
        if torch.cuda.is_available():
            self._attack("GPU", pair, self.threat, device="cuda")

    def _attack(self, name: str, clean: torch.Tensor, threat: Threat, kind: Kind | None = None, **options: Any) -> None:
        """Run the attack, or note why it refuses."""
        reason = self.attack.refusal(threat, *clean.shape[2:])
        if reason:
            self.refused[name] = reason
        else:
            self.runs[name] = run_on_toy_model(self.attack, clean, kind or self.kind, threat, **options)

    @property
    def usual(self) -> ToyRun:
        """The run on noise under the first norm."""
        return self.runs[f"noise, {self.threat.norm}"]

    def named(self, *names: str) -> Iterator[tuple[str, ToyRun]]:
        """Yield the runs whose names begin with one of `names`; all if none is given."""
        yield from ((name, run) for name, run in self.runs.items() if not names or name.startswith(names))


def _noise(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(height))


def _flat() -> torch.Tensor:
    """Return four images: black, white, grey, and black and white halves with a hard edge."""
    levels = torch.tensor([0, 255, 128, 0], dtype=torch.uint8).view(4, 1, 1, 1)
    images = levels.expand(4, 3, SIDE, SIDE).clone()
    images[3, :, :, SIDE // 2 :] = 255
    return images


def _first_failure(failures: dict[str, str]) -> str:
    """Describe the first failure and count the others."""
    name, failure = next(iter(failures.items()))
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"{name}: {failure}{more}"


def _result(failures: dict[str, str], measured: str) -> _Measured:
    """Return whether there are no failures, with the first failure or what was measured."""
    return not failures, _first_failure(failures) if failures else measured


def _runs(subject: _Subject) -> _Measured:
    if not subject.runs:
        return False, f"refuses all images: {next(iter(subject.refused.values()), '')}"
    failures = {name: run.error for name, run in subject.named("noise", "seven", "again") if run.error}
    return _result(failures, f"{len(subject.runs)} times, under {', '.join(subject.attack.norms)}")


def _returns(subject: _Subject) -> _Measured:
    failures = {}
    for name, run in subject.named():
        returned, shape = run.returned, tuple(run.clean.shape)
        if run.error:
            continue
        if not isinstance(returned, torch.Tensor):
            failures[name] = f"{type(returned).__name__}, not a tensor"
        elif tuple(returned.shape[1:]) != shape[1:]:
            failures[name] = f"shape {tuple(returned.shape)} for images of {shape}"
        elif returned.dtype != torch.float32:
            failures[name] = f"{returned.dtype}, not float32".replace("torch.", "")
        elif returned.requires_grad:
            failures[name] = "a tensor that still has a graph"
        elif name != "GPU" and returned.device.type != "cpu":
            failures[name] = f"on {returned.device}, not on the images' device"
        elif not returned.isfinite().all():
            failures[name] = "NaN or infinities"
    return _result(failures, "finite float32 images of the same shape")


def _threat(subject: _Subject) -> _Measured:
    failures, largest = {}, 0.0
    for name, run in subject.named():
        if run.stored is None:
            continue
        inside = inside_threat(run.stored.pixels, run.clean, run.threat)
        outside = int(run.stored.left_ball.sum())
        if outside or not inside.all():
            failures[name] = f"{outside} of {len(inside)} images left {run.threat.norm} ≤ {run.threat.size:.4g}"
        if run.returned is not None and run.threat.norm == "linf":
            linf = float((run.returned.cpu() - run.clean.float() / 255).abs().max())
            largest = max(largest, linf / run.threat.size)
    share = f"; up to {largest:.0%} of the ℓ∞ radius" if largest else ""
    return _result(failures, f"all images inside, as returned and as stored{share}")


def _seed(subject: _Subject) -> _Measured:
    first, second = subject.usual.stored, subject.runs["again"].stored
    if first is None or second is None:
        return False, "nothing to compare"
    differ = float((first.pixels != second.pixels).float().mean())
    return differ == 0, f"{differ:.0%} of the bytes differ under one seed" if differ else "the same bytes under one seed"


def _budget(subject: _Subject) -> _Measured:
    if not subject.attack.limited:
        return True, "keeps none, as it says: it is skipped where there is one"
    failures = {}
    for limit in LIMITS:
        run = subject.runs.get(f"{limit} queries")
        if run is None:
            continue
        if run.error:
            failures[f"limit {limit}"] = run.error
        elif int(run.forwards.max()) > limit:
            failures[f"limit {limit}"] = f"{int(run.forwards.max())} forward passes"
    return _result(failures, f"kept limits of {', '.join(map(str, LIMITS))} forward passes an image")


def _counted(subject: _Subject) -> _Measured:
    failures = {name: f"{run.uncounted} images scored past the target" for name, run in subject.named() if run.uncounted}
    return _result(failures, "asked the model through the target only")


def _cost(subject: _Subject) -> _Measured:
    attack, passes = subject.attack, subject.attack.passes
    forwards = max(int(run.forwards.max()) for _, run in subject.named()) - (attack.access != "none")
    backwards = max(int(run.backwards.max()) for _, run in subject.named())
    measured = f"{forwards} forwards and {backwards} backwards an image"
    if passes is None or isinstance(attack, FittedAttack):
        return True, f"{measured}; says nothing of it" if passes is None else f"{measured}, once fitted"
    ok = forwards <= passes[0] and backwards <= passes[1]
    return ok, f"{measured}; says {passes[0]} and {passes[1]} at most"


def _access(subject: _Subject) -> _Measured:
    """Check that the declared access is used: an unused gradient or score would exclude models needlessly."""
    attack = subject.attack
    if isinstance(attack, FittedAttack) or attack.control:
        return True, f"needs {attack.access}"
    forwards = max(int(run.forwards.max()) for _, run in subject.named()) - (attack.access != "none")
    backwards = max(int(run.backwards.max()) for _, run in subject.named())
    used = "gradient" if backwards else "score" if forwards else "none"
    fits = attack.access in (used, "set")
    return fits, f"says {attack.access!r}" + ("" if fits else f", used {used!r}")


def _untouched(subject: _Subject) -> _Measured:
    failures = {name: " and ".join(sorted(run.touched)) for name, run in subject.named() if run.touched}
    if failures:
        return False, f"changed: {_first_failure(failures)}"
    return True, "images, model, global random streams, settings, itself"


def _batch(subject: _Subject) -> _Measured:
    if not subject.attack.batches:
        return True, "takes one image at a time, as it says"
    together = subject.runs["seven"]
    if isinstance(subject.attack, SetAttack):
        return not together.error, together.error or "seven images at once; the set counts, as it says"
    worst, levels = 0.0, 0
    for name, run in subject.named("alone"):
        index = int(name.split()[1])
        if run.error or together.error:
            return False, f"{name if run.error else 'seven at once'}: {run.error or together.error}"
        if run.stored is None or together.stored is None:
            return False, "nothing to compare"
        difference = (run.stored.pixels[0].int() - together.stored.pixels[index].int()).abs()
        worst, levels = max(worst, float((difference > 0).float().mean())), max(levels, int(difference.max()))
    ok = worst <= BATCH_TOLERANCE and levels <= 1
    return ok, f"an image alone and among seven: {worst:.1%} of the values differ, by {levels} levels at most"


def _runs_on(*names: str, measured: str) -> Callable[[_Subject], _Measured]:
    """Return a check that the runs whose names begin with `names` raise nothing."""

    def check(subject: _Subject) -> _Measured:
        refused = [reason for name, reason in subject.refused.items() if name.startswith(names)]
        failures = {name: run.error for name, run in subject.named(*names) if run.error}
        return _result(failures, measured + (f"; refuses some: {refused[0]}" if refused else ""))

    return check


def _directions(subject: _Subject) -> _Measured:
    """Check that the loss of some objective falls and that of none rises, also for a model whose lower raw score is better.

    A fitted attack may fail on these images, since it was fitted on others.
    """
    if subject.attack.control:
        return True, "a control: it has none"
    failures, nearer = {}, []
    cases = [(f"noise, {subject.threat.norm}", subject.kind), ("lower is better", subject.kind)]
    cases += [(kind, kind) for kind in subject.attack.objectives if kind != subject.kind]
    for name, kind in cases:
        run, title = subject.runs.get(name), kind if name == kind else f"{kind}, {name}"
        if run is None or run.losses is None:
            failures[title] = run.error if run else "no image was taken"
            continue
        before, after = (float(loss.mean()) for loss in run.losses)
        if after < before:
            nearer.append(title)
        elif after > before and not isinstance(subject.attack, FittedAttack):
            failures[title] = f"mean loss {before:.4g} before, {after:.4g} after"
    if not nearer:
        failures.setdefault("every objective", "no loss became less")
    return _result(failures, f"comes nearer to {'; '.join(nearer)}")


def _gpu(subject: _Subject) -> _Measured:
    run = subject.runs.get("GPU")
    if run is None:
        return True, "not asked: there is none here"
    if run.error:
        return False, run.error
    if run.returned is None or run.returned.device.type != "cuda":
        return False, "returned images that are not on the GPU"
    return True, "works, and returns images on it"


_STAY_INSIDE = "finish with threat.snap(threat.project(attacked, images), images)"

_CHECKS: tuple[tuple[str, Callable[[_Subject], _Measured], str], ...] = (
    ("runs", _runs, "attack images (N, 3, H, W) of any size and N, or refuse them with a reason in refusal()"),
    ("returns", _returns, "return a float32 tensor (N, 3, H, W) like images, detached, with no NaN in it"),
    ("threat model", _threat, f"stay inside every norm that norms names: {_STAY_INSIDE}"),
    ("seed", _seed, "draw from the generator that run() is given, and from nothing else"),
    ("query budget", _budget, "ask target.queries_left before every question and stop at 0, or say limited = False"),
    ("counting", _counted, "ask target.quality and target.quality_and_grad, never target.model"),
    ("cost", _cost, "let passes return the most forward and backward passes of an image, or None"),
    ("access", _access, 'set access to what the attack asks for: "gradient", "score" or "none"'),
    ("leaves alone", _untouched, "work on copies, keep nothing on self, set no seed and no setting of torch"),
    ("batch", _batch, "let an image's result depend on that image and its own stream only, or say batches = False"),
    ("odd sizes", _runs_on("odd sides", measured=f"{ODD[1]}×{ODD[0]}"), "take any height and width, or refuse() it"),
    (
        "flat images",
        _runs_on("flat", measured="black, white, grey and a hard edge"),
        "keep divisions away from zero: flat areas have no variance, and their gradient may be zero",
    ),
    ("both directions", _directions, "make objective.loss(quality) small, whatever the objective, and nothing else"),
    ("GPU", _gpu, "make tensors on the images' device: .to(images)"),
)


def attack_facts(attack: Attack) -> dict[str, Any]:
    """Return what an attack declares."""
    cost = attack.passes and f"{attack.passes[0]} forwards and {attack.passes[1]} backwards an image at most"
    kind = "control" if attack.control else "fitted" if isinstance(attack, FittedAttack) else attack.access
    return {
        "needs": kind,
        "norms": " ".join(attack.norms),
        "objectives": " ".join(attack.objectives),
        "cost": cost,
        "paper": attack.paper,
    }


def check_attack(attack: Attack) -> list[Finding]:
    """Check an attack on a toy model; the global random streams are left unchanged.

    An attack with invalid class attributes gets only the findings about its declaration.

    Returns:
        One finding per check.
    """
    findings = [*declared(attack, paper_wanted=not attack.control), _class_attributes(attack)]
    if not findings[-1].ok:
        return findings
    with settled(), streams_kept():
        subject = _Subject(attack)
    for name, check, advice in _CHECKS:
        ok, measured = check(subject)
        findings.append(Finding(name, ok, measured, advice))
        if name == "runs" and not ok and all(run.error for run in subject.runs.values()):
            break  # without a single run there is nothing else to check
    return findings


def _class_attributes(attack: Attack) -> Finding:
    failures = []
    if attack.access not in get_args(Access):
        failures.append(f"access {attack.access!r}, not one of {', '.join(get_args(Access))}")
    for name, known in (("norms", get_args(Norm)), ("objectives", get_args(Kind))):
        value = getattr(attack, name)
        if not isinstance(value, tuple) or not value or not set(value) <= set(known):
            failures.append(f"{name} {value!r}, not a tuple of {', '.join(known)}")
    measured = failures[0] if failures else f"{attack.access}; {' '.join(attack.norms)}; {' '.join(attack.objectives)}"
    return Finding("class attributes", not failures, measured, "set access, norms and objectives to known words")
