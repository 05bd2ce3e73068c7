"""One attack on a few images of a tiny model, watched: what `iqarena check` and the tests of attacks look at."""

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
from iqarena.bench.inference.isolation import random_streams
from iqarena.bench.inference.target import Target, frozen
from iqarena.models.base import ModelInfo, QualityModel

TILE = 16
"""Side of the square of weights that `Linear` repeats."""


class Linear(QualityModel):
    """Quality ½ + Σ w·(x − ½) with Σ|w| = `reach`, for images of any size; none of the seeded weights is zero.

    Inside an ℓ∞ ball of radius r quality moves by at most r·reach, and clip(x ± r·sign(w)) moves it by that.

    Args:
        reach: Σ|w|; 30 lets 2/255 move quality by 0.24, and real models are moved further.
        higher_is_better: direction of the raw score, which runs from 0 to 100; quality is the same either way.
    """

    def __init__(self, reach: float = 30.0, higher_is_better: bool = True) -> None:
        super().__init__()
        self.info = ModelInfo("linear", (0.0, 100.0), higher_is_better, min_size=1)
        drawn = torch.randn(3, TILE, TILE, generator=torch.Generator().manual_seed(0))
        self.tile = torch.nn.Parameter(drawn + 0.05 * drawn.sign())
        self.reach = reach
        self.asked = 0  # images scored, whoever asked

    def weights(self, height: int, width: int) -> torch.Tensor:
        """w for images of a size, (3, height, width)."""
        whole = self.tile.repeat(1, -(-height // TILE), -(-width // TILE))[:, :height, :width]
        return whole * (self.reach / whole.abs().sum())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.asked += len(images)
        quality = 0.5 + (self.weights(*images.shape[2:]) * (images - 0.5)).sum(dim=(1, 2, 3))
        return 100 * (quality if self.info.higher_is_better else 1 - quality)


@dataclass
class ToyRun:
    """What came of one attack on one batch of images.

    Attributes:
        clean: the images, (N, 3, H, W) uint8.
        threat: the threat model.
        returned: what the attack returned; None where it raised.
        stored: what the harness makes of that; None where that is impossible.
        losses: the objective's loss (N,) before and after.
        forwards, backwards: (N,), as counted, the clean score's forward included.
        uncounted: images that the model scored without being asked through the target.
        error: what the attack raised, as one line.
        touched: what it changed and must not, in words.
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
    """Attack images (N, 3, H, W) uint8 of a tiny model, as a cell does; all at once, if the attack takes batches.

    What has to be fitted is fitted on eight random images of the same size; a set-level attack takes `clean` as its set.

    Args:
        attack, clean, kind, threat: which images are attacked how.
        model: `Linear` if left out.
        seeds: one an image; 0, 1, … if left out.
        device: where images and model are.
    """
    model = model or Linear()
    seeds = list(seeds) or list(range(len(clean)))
    if len(clean) > 1 and not attack.batches:
        alone = [
            run_on_toy_model(attack, clean[i : i + 1], kind, threat, model=model, seeds=seeds[i : i + 1], device=device)
            for i in range(len(clean))
        ]
        return _together(alone)
    done = ToyRun(clean, threat)
    model.to(device)
    with frozen(model), _watched(attack, model, done):
        images = (clean.float() / 255).to(device)
        before = images.clone()
        target = Target(model, len(clean), attack.access, queries=threat.queries)
        asked = getattr(model, "asked", 0)
        try:
            objective, returned = _run(attack, model, target, images, kind, threat, Generators(seeds))
        except (Exception, SystemExit) as error:
            done.error = describe(error)
        if not torch.equal(images, before) or images.requires_grad:
            done.touched.add("the images")
        done.forwards, done.backwards = target.counts.forwards, target.counts.backwards
        if not isinstance(attack, FittedAttack):  # what fitting asks is counted elsewhere
            done.uncounted = getattr(model, "asked", 0) - asked - int(done.forwards.sum())
        if done.error:
            return done
        done.returned = returned
        if isinstance(returned, torch.Tensor) and returned.shape == images.shape and returned.is_floating_point():
            done.stored = quantize(returned.detach().cpu(), clean, threat)
            with torch.inference_mode():
                qualities = [model.quality(some).cpu() for some in (before, (done.stored.pixels.float() / 255).to(device))]
            aim = _on_cpu(objective, qualities[0])
            done.losses = aim.loss(qualities[0]), aim.loss(qualities[1])
    return done


def _run(
    attack: Attack,
    model: QualityModel,
    target: Target,
    images: torch.Tensor,
    kind: Kind,
    threat: Threat,
    generators: Generators,
) -> tuple[Objective, torch.Tensor]:
    """What a cell does, for one batch that is the whole set."""
    quality = target.quality(images) if attack.access != "none" else torch.full((len(images),), torch.nan).to(images)
    labels = torch.linspace(0.2, 0.8, len(images)).to(images)
    objective = Objective(kind, quality, 0.5, labels)
    if isinstance(attack, FittedAttack):
        drawn = torch.randint(256, (8, *images.shape[1:]), generator=torch.Generator().manual_seed(99))
        lessons = drawn.to(images) / 255
        teacher = Target(model, len(lessons), attack.access)
        fit = attack.fit(teacher, lessons, Objective(kind, teacher.quality(lessons)), threat, Generators([0]))
        return objective, attack.run(target, images, objective, threat, generators, fit=fit)
    if isinstance(attack, SetAttack):
        seen = attack.look(target, images, objective, threat, generators)
        aims = attack.decide(quality.cpu(), seen.cpu(), torch.Generator().manual_seed(0))
        objective = replace(objective, kind="target", value=aims.to(images))
    return objective, attack.run(target, images, objective, threat, generators)


def _on_cpu(objective: Objective, clean: torch.Tensor) -> Objective:
    """The objective about clean qualities, which an attack that asks nothing was not told."""
    value = objective.value.cpu() if isinstance(objective.value, torch.Tensor) else objective.value
    labels = None if objective.labels is None else objective.labels.cpu()
    return replace(objective, clean=clean, labels=labels, value=value)


def _together(alone: Sequence[ToyRun]) -> ToyRun:
    """Trials of one image each as one trial."""
    whole = ToyRun(torch.cat([each.clean for each in alone]), alone[0].threat)
    whole.error = next((each.error for each in alone if each.error), "")
    whole.touched = set().union(*(each.touched for each in alone))
    whole.uncounted = sum(each.uncounted for each in alone)
    whole.forwards = torch.cat([each.forwards for each in alone])
    whole.backwards = torch.cat([each.backwards for each in alone])
    returned = [each.returned for each in alone if isinstance(each.returned, torch.Tensor)]
    stored = [each.stored for each in alone if each.stored]
    losses = [each.losses for each in alone if each.losses]
    if len(returned) == len(alone):
        whole.returned = torch.cat(returned)
    if len(stored) == len(alone):
        parts = ([getattr(each, name) for each in stored] for name in ("pixels", "left_ball", "not_finite"))
        whole.stored = Stored(*(torch.cat(part) for part in parts))
        whole.losses = torch.cat([pair[0] for pair in losses]), torch.cat([pair[1] for pair in losses])
    return whole


@contextmanager
def _watched(attack: Attack, model: QualityModel, done: ToyRun) -> Iterator[None]:
    """Notes what is another when the context ends."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    streams, settings, own = random_streams(), _settings(), copy.deepcopy(vars(attack))
    yield
    same = all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    quiet = all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    if not same or not quiet or any(part.training for part in model.modules()):
        done.touched.add("the model")
    done.touched |= {f"the random stream of {name}" for name, value in random_streams().items() if value != streams[name]}
    for name, value in _settings().items():
        if value != settings[name]:
            done.touched.add(f"torch's {name}")
            _SETTINGS[name][1](settings[name])  # the next trial must not suffer
    if vars(attack) != own:
        done.touched.add("itself")


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "thread count": (torch.get_num_threads, torch.set_num_threads),
    "deterministic mode": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
}
"""How to read and how to write what is set for all of torch."""


def _settings() -> dict[str, Any]:
    return {name: read() for name, (read, _) in _SETTINGS.items()}
