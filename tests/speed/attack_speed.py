"""Overhead of attacks: their time over that of a bare loop with the same forward and backward passes.

    python -m tests.speed.attack_speed --turns 7 --write

`resnet-iqa`, eight demo images in one batch, one thread, budgets cut short. The passes that an attack makes are noted
once. The bare loop makes the same on batches of the same sizes, and after each backward pass the step that any attack
takes: along the sign, or for ℓ2 the gradient's direction, back into the ball and into [0, 1]. In both, the seconds
inside the model are measured beside those of the whole: a figure is the attack's whole over its passes, divided by the
loop's whole over its passes. Other load on the machine slows both parts of a run alike, so such figures
hardly vary where ratios of two runs vary by a tenth. Seconds are CPU seconds of the process. Exits with 1 if
an attack takes more than 1.05 times as long, or fails. Attacks that compute something of their own (SSIM, a warp, a
network) have no limit; other libraries' are not measured. `--write` puts the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from iqarena.attacks.base import Attack, Generators
from iqarena.attacks.ensemble import Ensemble
from iqarena.attacks.fitted import FittedAttack
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Norm, Threat
from iqarena.attacks.whole_set import SetAttack
from iqarena.bench.errors import UserError, describe
from iqarena.bench.inference.device import Engine
from iqarena.bench.inference.loading import load_model
from iqarena.bench.inference.target import Target, frozen
from iqarena.bench.process import keep_freed_memory, use_threads
from iqarena.bench.registry import ATTACKS
from iqarena.models.base import QualityModel
from tests.speed import page
from tests.speed.attacks import EPS, demo_images, plain_step
from tests.speed.rows import TURNS, Row, in_turns, ratio

GROUP = "attacks"
LIMIT = 1.05
SHORTER = {"queries": 200, "steps": 10, "epochs": 2}
THREATS: dict[Norm, Threat] = {
    "linf": Threat("linf", EPS), "l2": Threat("l2", 2.0), "l0": Threat("l0", 0.05), "patch": Threat("patch", 0.05),
    "ssim": Threat("ssim", 0.05),
}  # fmt: skip
OWN_WORK = {
    "adv-cf": "colour curves",
    "cumulative-uap": "a tile and its gradient",
    "di-fgsm": "random resize and padding",
    "facpa": "U-Net, trained",
    "generative-uap": "U-Net, trained",
    "ioi": "Fourier transforms",
    "korhonen": "map of spatial activity",
    "madc": "reference distance and its gradient",
    "score-boundary": "textures along edges, image by image",
    "sma": "ranks of the whole set",
    "ssah": "Haar transforms",
    "stadv": "warp",
    "ti-fgsm": "Gaussian blur of gradients",
    "uap": "a tile and its gradient",
    "vmi-fgsm": "random neighbours",
    "zhang-dists": "DISTS network",
    "zhang-ssim": "SSIM and its gradient",
}
"""Attacks with computations of their own beside the model, and their name."""

Call = tuple[int, bool]
"""A forward pass: its number of images, and whether a backward pass followed."""


class Watched(QualityModel):
    """A model that records its passes, and the CPU seconds that they take.

    A backward pass is what lies between the gradient's arrival at the scores and its arrival at the images.
    """

    def __init__(self, model: QualityModel) -> None:
        super().__init__()
        self.model, self.info = model, model.info
        self.calls: list[Call] = []
        self.seconds = self._since = 0.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        backward = torch.is_grad_enabled() and images.requires_grad
        self.calls.append((len(images), backward))
        started = time.process_time()
        inside = images.view_as(images) if backward else images
        scores: torch.Tensor = self.model(inside)
        self.seconds += time.process_time() - started
        if backward:
            scores.register_hook(self._begin)
            inside.register_hook(self._end)
        return scores

    def _begin(self, _: torch.Tensor) -> None:
        self._since = time.process_time()

    def _end(self, _: torch.Tensor) -> None:
        self.seconds += time.process_time() - self._since

    def over_passes(self, job: Callable[[QualityModel], object]) -> tuple[float, float]:
        """Run a job; return its seconds over those of its passes, and the latter."""
        gc.collect()
        self.seconds = 0.0
        started = time.process_time()
        job(self)
        return (time.process_time() - started) / self.seconds, self.seconds


@dataclass(frozen=True)
class Workload:
    """The workload that every attack is run on."""

    images: torch.Tensor
    clean: torch.Tensor

    def attack(self, attack: Attack, model: QualityModel) -> None:
        """Run an attack as the evaluator does, including its fit or its look at the whole set."""
        size = len(self.images) if attack.batches else 1
        for index in torch.arange(len(self.images)).split(size):
            images, clean = self.images[index], self.clean[index]
            target = Target(model, len(images), attack.access)
            objective = Objective(kind_of(attack), clean)
            generators = Generators(index.tolist())
            fit: dict[str, Any] = {}
            if isinstance(attack, FittedAttack):
                fit = {"fit": attack.fit(target, images, objective, threat_of(attack), Generators([0]))}
            if isinstance(attack, SetAttack):
                seen = attack.look(target, images, objective, threat_of(attack), generators)
                objective = replace(objective, value=attack.decide(clean, seen, torch.Generator().manual_seed(0)))
            attack.run(target, images.clone(), objective, threat_of(attack), generators, **fit)

    def bare(self, model: QualityModel, calls: list[Call], norm: Norm) -> None:
        """Run the same passes, with a step after each backward pass, and nothing else."""
        step = plain_step_l2 if norm == "l2" else plain_step
        for count, backward in calls:
            batch = self.images[:count]
            if backward:
                leaf = batch.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(model.quality(leaf).sum(), leaf)
                step(leaf.detach(), gradient, batch)
            else:
                with torch.inference_mode():
                    model.quality(batch)


def plain_step_l2(images: torch.Tensor, gradient: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Return images after an ℓ2 step of a quarter of the ball along the gradient."""
    eps = THREATS["l2"].size
    shift = images + eps / 4 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1) - clean
    length: torch.Tensor = shift.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    moved: torch.Tensor = clean + shift * (eps / length).clamp(max=1)
    return moved.clamp(0, 1)


def kind_of(attack: Attack) -> Kind:
    """Return an objective that the attack supports, `raise` if possible."""
    return "raise" if "raise" in attack.objectives else attack.objectives[0]


def threat_of(attack: Attack) -> Threat:
    """Return a threat model that the attack supports, ℓ∞ if possible."""
    return THREATS["linf" if "linf" in attack.norms else attack.norms[0]]


def shortened(name: str) -> Attack:
    """Build an attack with a reduced budget."""
    attack = ATTACKS.build(name)
    return replace(attack, **{key: min(most, getattr(attack, key)) for key, most in SHORTER.items() if hasattr(attack, key)})  # type: ignore[type-var]


def measured(name: str, model: QualityModel, workload: Workload, turns: int) -> Row:
    """Measure an attack's figure; forwards and backwards are calls of the model, whatever their batch."""
    attack = shortened(name)
    norm = threat_of(attack).norm
    watched = Watched(model)
    started = time.process_time()
    workload.attack(attack, watched)  # also warms up
    calls = watched.calls[:]
    if not calls:
        return Row(GROUP, f"`{name}`", 1000 * (time.process_time() - started), "ms", note="asks the model nothing")
    figures: list[float] = []
    alone: list[float] = []
    seconds: list[float] = []
    for _ in range(turns):
        bare, in_passes = watched.over_passes(lambda asked: workload.bare(asked, calls, norm))
        own, _ = watched.over_passes(lambda asked: workload.attack(attack, asked))
        figures.append(own / bare)
        alone.append(own)
        seconds.append(in_passes)
    backwards = sum(backward for _, backward in calls)
    own_work = OWN_WORK.get(name, "SSIM" if norm == "ssim" else "")
    notes = [
        norm, f"{len(calls)} forwards, {backwards} backwards, {statistics.median(seconds):.2f} s",
        f"{statistics.median(alone):.3f} × the passes alone", own_work,
    ]  # fmt: skip
    return Row(
        GROUP, f"`{name}`", statistics.median(figures), "×", "" if own_work else f"≤ {LIMIT}",
        (min(figures), max(figures)), "; ".join(filter(None, notes)),
    )  # fmt: skip


def low_precision(name: str, images: torch.Tensor, turns: int) -> Row:
    """Measure the speed-up of gradients in bfloat16 with channels last, and their agreement with those in float32."""
    model = load_model(name)
    fast = Engine().place(copy.deepcopy(model), images[0].mul(255).byte())
    gradients: dict[str, torch.Tensor] = {}

    def full() -> None:
        leaf = images.clone().requires_grad_()
        (gradients["full"],) = torch.autograd.grad(model.quality(leaf).sum(), leaf)

    def low() -> None:
        leaf = images.to(memory_format=torch.channels_last).clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            qualities = fast.quality(leaf)
        (gradients["low"],) = torch.autograd.grad(qualities.float().sum(), leaf)

    with frozen(model), frozen(fast):
        value, spread = ratio(*in_turns([full, low], turns))
    cosine = torch.nn.functional.cosine_similarity(gradients["full"].flatten(1), gradients["low"].flatten(1)).mean()
    signs = (gradients["full"].sign() == gradients["low"].sign()).float().mean()
    note = f"a bare forward and backward; the two gradients' cosine {cosine:.3f}, same signs {signs:.1%}"
    return Row(GROUP, f"gradient in float32 / in bfloat16 with channels last, `{name}`", value, "×", "", spread, note)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--attacks", nargs="+", help="names; every built-in one if left out")
    parser.add_argument("--turns", type=int, default=7, help="timed turns of each pair, at least 5 (7)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    turns = max(options.turns, TURNS)
    use_threads(1)
    keep_freed_memory()
    images = demo_images()
    model = load_model("resnet-iqa")
    rows: list[Row] = []
    broken: list[str] = []
    with frozen(model):
        with torch.inference_mode():
            workload = Workload(images, model.quality(images).clone())
        for name in options.attacks or [name for name in ATTACKS.names() if ":" not in name]:
            try:
                attack = ATTACKS.build(name)
                if isinstance(attack, Ensemble):
                    print(f"{name}: costs what its members cost: {', '.join(str(part.name) for part, _ in attack.members)}")
                    continue
                if reason := attack.refusal(threat_of(attack), images.shape[2], images.shape[3]):
                    print(f"{name}: cannot run here: {reason}")
                    continue
                rows.append(measured(name, model, workload, turns))
                print(page.line(rows[-1]), flush=True)
            except UserError as error:
                broken.append(str(error))
            except Exception as error:
                broken.append(f"{name}: {describe(error)}")
    for name in ("resnet-iqa", "cnniqa"):
        rows.append(low_precision(name, images, turns))
        print(page.line(rows[-1]), flush=True)
    for message in broken:
        print(message, file=sys.stderr)
    if options.write and not broken:
        rows.sort(key=lambda row: (not row.wanted, row.unit, row.value))
        page.write_section(GROUP, page.table(rows, f"python -m tests.speed.attack_speed --turns {turns}", turns))
    return int(bool(broken) or any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
