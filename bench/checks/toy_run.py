"""A monitored run of an attack on a toy model, for `iqarena check` and the tests of attacks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from iqarena.attacks.base import Attack, Generators
from iqarena.attacks.fitted import FittedAttack
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Threat
from iqarena.attacks.whole_set import SetAttack
from iqarena.bench.errors import describe
from iqarena.bench.evaluation.judge import Stored, quantize
from iqarena.bench.inference.isolation import random_streams, watched
from iqarena.bench.inference.target import Target, frozen
from iqarena.bench.process import asks_to_stop
from iqarena.models.base import ModelInfo, QualityModel

TILE = 16
"""Side of the square of weights that `LinearToy` repeats."""


class LinearToy(QualityModel):
    """A linear model of quality ½ + Σ w·(x − ½) with Σ|w| = `reach`, for images of any size; no seeded weight is zero.

    Inside an ℓ∞ ball of radius r quality moves by at most r·reach, and clip(x ± r·sign(w)) moves it by that.

    Args:
        reach: Σ|w|; with 30, a perturbation of 2/255 moves quality by 0.24; real models move further.
        higher_is_better: direction of the raw score, which runs from 0 to 100; quality is the same either way.
    """

    def __init__(self, reach: float = 30.0, higher_is_better: bool = True) -> None:
        super().__init__()
        self.info = ModelInfo("linear", (0.0, 100.0), higher_is_better, min_size=1)
        drawn = torch.randn(3, TILE, TILE, generator=torch.Generator().manual_seed(0))
        self.tile = torch.nn.Parameter(drawn + 0.05 * drawn.sign())
        self.reach = reach

    def weights(self, height: int, width: int) -> torch.Tensor:
        """Return w for images of a size, (3, height, width)."""
        whole = self.tile.repeat(1, -(-height // TILE), -(-width // TILE))[:, :height, :width]
        return whole * (self.reach / whole.abs().sum())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        quality = 0.5 + (self.weights(*images.shape[2:]) * (images - 0.5)).sum(dim=(1, 2, 3))
        return 100 * (quality if self.info.higher_is_better else 1 - quality)


@dataclass
class ToyRun:
    """The result of an attack on a batch of images.

    Attributes:
        clean: the images, (N, 3, H, W) uint8.
        threat: the threat model.
        returned: what the attack returned; None where it raised.
        stored: the same images as the harness stores them; None where that is impossible.
        losses: the objective's loss (N,) before and after.
        forwards, backwards: (N,), counted passes, including the forward pass of the clean score.
        uncounted: number of images that the model scored other than through the target.
        error: what the attack raised, as one line.
        touched: descriptions of what it changed and must not change.
    """

    clean: torch.Tensor
    threat: Threat
    returned: torch.Tensor | None = None
    stored: Stored | None = None
    losses: tuple[torch.Tensor, torch.Tensor] | None = None
    forwards: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    backwards: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    uncounted: int = 0
    error: str = ""
    touched: set[str] = field(default_factory=set)


def run_on_toy_model(
    attack: Attack,
    clean: torch.Tensor,
    kind: Kind,
    threat: Threat,
    *,
    model: QualityModel | None = None,
    seeds: Sequence[int] = (),
    device: str = "cpu",
) -> ToyRun:
    """Attack images (N, 3, H, W) uint8 of a toy model, as a cell does; as one batch if the attack takes batches.

    A fitted attack is fitted on eight random images of the same size; a set-level attack takes `clean` as its set.

    Args:
        attack: the attack.
        clean: the clean images.
        kind: the objective.
        threat: the threat model.
        model: the attacked model; `LinearToy` if left out.
        seeds: one seed per image; 0, 1, … if left out.
        device: device of images and model.
    """
    model = model or LinearToy()
    seeds = list(seeds) or list(range(len(clean)))
    if len(clean) > 1 and not attack.batches:
        runs = [
            run_on_toy_model(attack, clean[i : i + 1], kind, threat, model=model, seeds=seeds[i : i + 1], device=device)
            for i in range(len(clean))
        ]
        return _merged(runs)
    toy_run = ToyRun(clean, threat)
    model.to(device)
    with frozen(model), _monitored(attack, model, toy_run), watched(model) as past:
        images = (clean.float() / 255).to(device)
        before = images.clone()
        target = Target(model, len(clean), attack.access, queries=threat.queries)
        try:
            objective, returned = _run(attack, model, target, images, kind, threat, Generators(seeds))
        except BaseException as error:
            if asks_to_stop(error):
                raise
            toy_run.error = describe(error)
        if not torch.equal(images, before) or images.requires_grad:
            toy_run.touched.add("the images")
        toy_run.forwards, toy_run.backwards = target.counts.forwards, target.counts.backwards
        toy_run.uncounted = past.images
        if toy_run.error:
            return toy_run
        toy_run.returned = returned
        if isinstance(returned, torch.Tensor) and returned.shape == images.shape and returned.is_floating_point():
            toy_run.stored = quantize(returned.detach().cpu(), clean, threat)
            with torch.inference_mode():
                attacked = (toy_run.stored.pixels.float() / 255).to(device)
                qualities = [model.quality(images).cpu() for images in (before, attacked)]
            objective = _on_cpu(objective, qualities[0])
            toy_run.losses = objective.loss(qualities[0]), objective.loss(qualities[1])
    return toy_run


def _run(
    attack: Attack,
    model: QualityModel,
    target: Target,
    images: torch.Tensor,
    kind: Kind,
    threat: Threat,
    generators: Generators,
) -> tuple[Objective, torch.Tensor]:
    """Run the attack as a cell does, with one batch as the whole set; return the objective and what the attack returned."""
    quality = target.quality(images) if attack.access != "none" else torch.full((len(images),), torch.nan).to(images)
    labels = torch.linspace(0.2, 0.8, len(images)).to(images)
    objective = Objective(kind, quality, 0.5, labels)
    if isinstance(attack, FittedAttack):
        drawn = torch.randint(256, (8, *images.shape[1:]), generator=torch.Generator().manual_seed(99))
        fit_images = drawn.to(images) / 255
        fit_target = Target(model, len(fit_images), attack.access)
        fit = attack.fit(fit_target, fit_images, Objective(kind, fit_target.quality(fit_images)), threat, Generators([0]))
        return objective, attack.run(target, images, objective, threat, generators, fit=fit)
    if isinstance(attack, SetAttack):
        seen = attack.look(target, images, objective, threat, generators)
        aims = attack.decide(quality.cpu(), seen.cpu(), torch.Generator().manual_seed(0))
        objective = replace(objective, kind="target", value=aims.to(images))
    return objective, attack.run(target, images, objective, threat, generators)


def _on_cpu(objective: Objective, clean: torch.Tensor) -> Objective:
    """Move the objective to the CPU and set its clean qualities, which an attack without access was not given."""
    value = objective.value.cpu() if isinstance(objective.value, torch.Tensor) else objective.value
    labels = None if objective.labels is None else objective.labels.cpu()
    return replace(objective, clean=clean, labels=labels, value=value)


def _merged(runs: Sequence[ToyRun]) -> ToyRun:
    """Merge runs of one image each into one run."""
    merged = ToyRun(torch.cat([run.clean for run in runs]), runs[0].threat)
    merged.error = next((run.error for run in runs if run.error), "")
    merged.touched = set().union(*(run.touched for run in runs))
    merged.uncounted = sum(run.uncounted for run in runs)
    merged.forwards = torch.cat([run.forwards for run in runs])
    merged.backwards = torch.cat([run.backwards for run in runs])
    returned = [run.returned for run in runs if isinstance(run.returned, torch.Tensor)]
    stored = [run.stored for run in runs if run.stored]
    losses = [run.losses for run in runs if run.losses]
    if len(returned) == len(runs):
        merged.returned = torch.cat(returned)
    if len(stored) == len(runs):
        parts = ([getattr(run, name) for run in stored] for name in ("pixels", "left_ball", "not_finite"))
        merged.stored = Stored(*(torch.cat(part) for part in parts))
        merged.losses = torch.cat([pair[0] for pair in losses]), torch.cat([pair[1] for pair in losses])
    return merged


@contextmanager
def _monitored(attack: Attack, model: QualityModel, toy_run: ToyRun) -> Iterator[None]:
    """Record in `toy_run` what the attack has changed when the context ends."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    streams, settings, attributes = random_streams(), _settings(), copy.deepcopy(vars(attack))
    yield
    unchanged = all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    no_gradients = all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    if not unchanged or not no_gradients or any(part.training for part in model.modules()):
        toy_run.touched.add("the model")
    toy_run.touched |= {f"the random stream of {name}" for name, value in random_streams().items() if value != streams[name]}
    for name, value in _settings().items():
        if value != settings[name]:
            toy_run.touched.add(f"torch's {name}")
            _SETTINGS[name][1](settings[name])  # so that the next run starts with the default
    if vars(attack) != attributes:
        toy_run.touched.add("itself")


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "thread count": (torch.get_num_threads, torch.set_num_threads),
    "deterministic mode": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
}
"""Getter and setter of each global setting of torch."""


def _settings() -> dict[str, Any]:
    return {name: read() for name, (read, _) in _SETTINGS.items()}
