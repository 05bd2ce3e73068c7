"""The training loop of all recipes, including the undefended one, at a given budget.

The budget counts *passes*: one pass is one forward and one backward pass of one image, for the weights or for an inner
attack. So recipes are compared at equal compute, not at equal epochs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from scipy import stats
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Sampler

from iqarena.models.base import QualityModel

Losses = Callable[[QualityModel, torch.Tensor, torch.Tensor, float], Iterator[torch.Tensor]]
"""``losses(model, images, labels, progress)`` yields the losses of one batch; `progress` runs from 0 to 1 over the budget.

After each loss, before it requests the next one, the loop runs the backward pass and one optimiser step.
"""


Choose = Callable[[int, int], tuple[int, int, int, int]]
"""``choose(height, width)`` of an image returns (top, left, height, width) of the requested part of it."""

_REPORT_EVERY = 50  # steps


class LabelledImages(Protocol):
    """The interface of a data set for training."""

    def __len__(self) -> int: ...
    def image(self, index: int) -> torch.Tensor:
        """Return an image, (3, H, W) uint8."""

    def part(self, index: int, choose: Choose) -> torch.Tensor:
        """Return a part of an image, (3, height, width) uint8."""

    def mos(self, index: int) -> float:
        """Return the label of an image in [0, 1], 1 = best."""


@dataclass(frozen=True)
class Schedule:
    """The training schedule.

    Attributes:
        passes: the budget, in forward+backward passes of one image.
        batch: images per step.
        crop: side of the random crops in pixels.
        learning_rate: peak of a one-cycle schedule (5 % warm-up, cosine to zero).
        weight_decay: weight decay of AdamW.
        ema: decay per step of the averaged weights, which are the result of the training.
        seed: seed of order, crops, flips and inner attacks.
        workers: processes that decode images.
        minutes_between_checkpoints: interval between checkpoints, the most that an interrupted run loses.
    """

    passes: int = 500_000
    batch: int = 32
    crop: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    ema: float = 0.999
    seed: int = 0
    workers: int = 1
    minutes_between_checkpoints: float = 2.0


class _Crops(Dataset[tuple[torch.Tensor, float]]):
    """Random crops and flips, each a function of (seed, draw), so that a resumed run sees the same crops."""

    def __init__(self, dataset: LabelledImages, crop: int, seed: int) -> None:
        self.dataset, self.crop, self.seed = dataset, crop, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: int) -> tuple[torch.Tensor, float]:
        index = draw % len(self.dataset)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw)

        def choose(height: int, width: int) -> tuple[int, int, int, int]:
            if min(height, width) < self.crop:
                raise ValueError(f"image {index} is {width}×{height}, smaller than the crop of {self.crop}")
            top, left = (int(torch.randint(0, side - self.crop + 1, (), generator=generator)) for side in (height, width))
            return top, left, self.crop, self.crop

        crop = self.dataset.part(index, choose)
        if torch.rand((), generator=generator) < 0.5:
            crop = crop.flip(2)
        return crop, self.dataset.mos(index)


class _Order(Sampler[int]):
    """A sampler of epochs in seeded order, starting at a given draw; a draw is ``epoch · n + index``."""

    def __init__(self, count: int, seed: int, first: int, total: int) -> None:
        self.count, self.seed, self.first, self.total = count, seed, first, total

    def __iter__(self) -> Iterator[int]:
        for epoch in range(self.first // self.count, math.ceil(self.total / self.count)):
            order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed + 7919 * epoch)).tolist()
            for position, index in enumerate(order):
                if self.first <= epoch * self.count + position < self.total:
                    yield epoch * self.count + index


@contextmanager
def in_eval_mode(model: QualityModel) -> Iterator[None]:
    """Put the model into eval mode inside the context, and restore its mode: no dropout, no update of running statistics."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def score(model: QualityModel, dataset: LabelledImages, batch: int = 16) -> torch.Tensor:
    """Compute the qualities (N,) of whole images, in float32 and eval mode; the mode of the model is restored."""
    qualities = []
    with in_eval_mode(model), torch.inference_mode():
        for start in range(0, len(dataset), batch):
            group = [dataset.image(i).float() / 255 for i in range(start, min(start + batch, len(dataset)))]
            if len({tuple(image.shape) for image in group}) == 1:
                qualities.append(model.quality(torch.stack(group)))
            else:
                qualities.extend(model.quality(image[None]) for image in group)
    return torch.cat(qualities)


def srocc(model: QualityModel, dataset: LabelledImages) -> float:
    """Compute the Spearman correlation of the model's qualities of whole images with the labels."""
    labels = [dataset.mos(i) for i in range(len(dataset))]
    return float(stats.spearmanr(score(model, dataset).numpy(), labels).statistic)


@dataclass(frozen=True)
class Progress:
    """A progress report: fraction of the budget, mean loss since the last report, validation SROCC or None, and the seconds
    spent, including interrupted runs."""

    share: float
    loss: float
    validation_srocc: float | None
    seconds: float


def train(
    model: QualityModel,
    losses: Losses,
    passes_an_image: int,
    dataset: LabelledImages,
    schedule: Schedule,
    *,
    checkpoint: Path,
    identity: str = "",
    validation: LabelledImages | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, float | int]:
    """Train a model in place until the budget is spent; it ends with its averaged weights, in eval mode.

    Args:
        model: a differentiable model whose raw score is trained toward the label in [0, 1].
        losses: the recipe.
        passes_an_image: cost of one image under the recipe, all its losses together, in passes.
        dataset: the training set.
        schedule: see `Schedule`.
        checkpoint: file for the state; if it exists and belongs to the same training, training resumes from it.
        identity: identifies this training in its checkpoint: recipe, data, start.
        validation: scored ten times during training, for the log only; it is not used for model selection.
        report: called every 50 steps.

    Returns:
        Facts for the card: images seen, passes, steps, seconds.

    Raises:
        ValueError: if the checkpoint belongs to another training or the budget is below one step.
    """
    steps = schedule.passes // (passes_an_image * schedule.batch)
    if steps < 1:
        cost = passes_an_image * schedule.batch
        raise ValueError(f"a budget of {schedule.passes} passes is less than one step of {cost}")
    torch.manual_seed(schedule.seed)
    technical = {"workers", "minutes_between_checkpoints"}  # do not affect the weights
    settings = {name: value for name, value in asdict(schedule).items() if name not in technical}
    recipe = json.dumps(settings | {"passes_an_image": passes_an_image, "images": len(dataset), "identity": identity})
    state = _State(model, schedule, steps, checkpoint, recipe)
    state.load()
    model.train()
    device = next(model.parameters()).device
    recent: list[float] = []  # losses since the last report
    for images, labels in batches(dataset, schedule, state.step, steps):
        batch = images.to(device, memory_format=torch.channels_last).float() / 255
        values = []
        recipe_losses = losses(model, batch, labels.to(device).float(), state.step / steps)
        while True:
            # no cache: before torch 2.13, weights used under no_grad by a recipe got no gradient from later operations
            with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
                value = next(recipe_losses, None)
            if value is None:
                break
            state.update(value)
            values.append(float(value.detach()))
        state.next_batch()
        recent.append(sum(values) / len(values))
        if state.step % _REPORT_EVERY == 0 or state.step == steps:
            due = state.step == steps or state.step // _REPORT_EVERY % max(steps // (10 * _REPORT_EVERY), 1) == 0
            measured = srocc(state.averaged, validation) if due and validation is not None else None
            report(Progress(state.step / steps, sum(recent) / len(recent), measured, state.seconds))
            recent.clear()
        state.save_if_due(60 * schedule.minutes_between_checkpoints)
    state.save()
    model.load_state_dict(state.averaged.state_dict())
    model.eval()
    images_seen = state.step * schedule.batch
    return {
        "images_seen": images_seen,
        "passes": images_seen * passes_an_image,
        "steps": state.step,
        "seconds": round(state.seconds),
    }


def batches(dataset: LabelledImages, schedule: Schedule, step: int, steps: int) -> DataLoader[tuple[torch.Tensor, float]]:
    """Return the remaining batches from a step on: images (N, 3, crop, crop) uint8 and labels (N,)."""
    return DataLoader(
        _Crops(dataset, schedule.crop, schedule.seed),
        schedule.batch,
        sampler=_Order(len(dataset), schedule.seed, step * schedule.batch, steps * schedule.batch),
        num_workers=schedule.workers,
        prefetch_factor=4 if schedule.workers else None,
        generator=torch.Generator(),  # separate, so that restarting the loader does not draw from the global stream
    )


class _State:
    """The state that training resumes from: weights, their average, optimiser, step, random stream."""

    def __init__(self, model: QualityModel, schedule: Schedule, steps: int, checkpoint: Path, recipe: str) -> None:
        self.model, self.checkpoint, self.recipe = model, checkpoint, recipe
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema), use_buffers=True)
        self.optimizer = torch.optim.AdamW(model.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
        # OneCycleLR divides by zero where the warm-up is exactly one step, which is 5 % of 20
        warm_up = 0.05 if steps != 20 else 0.06
        self.rates = OneCycleLR(self.optimizer, schedule.learning_rate, total_steps=steps, pct_start=warm_up)
        self.step, self._seconds_before = 0, 0.0
        self._started = self._last_save = time.monotonic()

    @property
    def averaged(self) -> QualityModel:
        """The model with its averaged weights."""
        module = self.average.module
        assert isinstance(module, QualityModel)
        return module

    @property
    def seconds(self) -> float:
        """Seconds spent on training, including interrupted runs."""
        return self._seconds_before + time.monotonic() - self._started

    def update(self, loss: torch.Tensor) -> None:
        """Take one optimiser step."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.model)

    def next_batch(self) -> None:
        """Advance the schedule by one step."""
        self.rates.step()
        self.step += 1

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "average": self.average, "optimizer": self.optimizer, "rates": self.rates}

    def load(self) -> None:
        """Load the checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return
        saved = torch.load(self.checkpoint, weights_only=True)
        if saved["recipe"] != self.recipe:
            raise ValueError(f"{self.checkpoint} is of another training; delete it or name another folder")
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        self.step, self._seconds_before = saved["step"], saved["seconds"]
        torch.set_rng_state(saved["rng"])

    def save(self) -> None:
        """Write the checkpoint atomically."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        facts = {"recipe": self.recipe, "step": self.step, "seconds": self.seconds, "rng": torch.get_rng_state()}
        part_file = self.checkpoint.with_suffix(".part")
        torch.save(parts | facts, part_file)
        part_file.replace(self.checkpoint)

    def save_if_due(self, interval: float) -> None:
        """Write the checkpoint if the last one is older than `interval` seconds."""
        if time.monotonic() - self._last_save > interval:
            self.save()
            self._last_save = time.monotonic()


def regression(model: QualityModel, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute the squared error (N,) between qualities and labels."""
    return functional.mse_loss(model.quality(images).float(), labels, reduction="none")


def inner_attack(
    model: QualityModel, images: torch.Tensor, labels: torch.Tensor, epsilon: float, steps: int
) -> torch.Tensor:
    """Attack images inside the ℓ∞ ball to raise the squared error: projected sign steps from a random start.

    With the model's clean scores as labels, the attack raises the squared difference from them.

    The model is in eval mode during the attack, so that its running statistics are not updated with intermediate images, and
    its weights get no gradient. Costs `steps` passes per image.
    """
    shift = torch.empty_like(images).uniform_(-epsilon, epsilon)
    with in_eval_mode(model):
        for _ in range(steps):
            attacked = (images + shift).clamp(0, 1).requires_grad_()
            (gradient,) = torch.autograd.grad(regression(model, attacked, labels).sum(), attacked)
            shift = (shift + 1.25 * epsilon / steps * gradient.sign()).clamp(-epsilon, epsilon)
    return (images + shift).clamp(0, 1).detach()
