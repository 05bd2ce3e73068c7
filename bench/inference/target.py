"""The interface between an attack and a model: qualities and gradients, with a count of passes for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import nn

from iqarena.attacks.base import Access
from iqarena.bench.inference.device import gradient_precision
from iqarena.bench.inference.isolation import seeded, through_target
from iqarena.bench.inference.query_trace import QueryTrace
from iqarena.bench.suite import Precision
from iqarena.models.base import QualityModel


class ModelError(Exception):
    """A model that violates its contract."""


class TargetError(Exception):
    """An attack that makes a query that it is not allowed to make."""


class Counts:
    """Forward and backward passes of each image of a batch, its gradients, and those of them that were zero or NaN."""

    def __init__(self, count: int) -> None:
        self.forwards = torch.zeros(count, dtype=torch.int64)
        self.backwards = torch.zeros(count, dtype=torch.int64)
        self.gradients = torch.zeros(count, dtype=torch.int64)
        self.zero_gradients = torch.zeros(count, dtype=torch.int64)


class Target:
    """A model under attack with one batch of images.

    Args:
        model: the model under attack.
        count: number of images in the batch.
        access: access that the attack declares; a score-based attack gets no gradient.
        queries: limit of forward passes per image, or None.
        draws: for a stochastic model, number of random draws that each answer is averaged over (each is counted).
        seed: seed of a stochastic model's random draws.
        precision: precision of the forward passes that gradients are computed through, and of their qualities.

    Every batch passed in must have `count` images, in the same order; `part` returns a target for fewer images.

    Example:
        >>> from iqarena.bench.inference.loading import load_model
        >>> target = Target(load_model("cnniqa"), count=2, access="score")
        >>> qualities = target.quality(torch.rand(2, 3, 32, 32))
        >>> qualities.shape, target.counts.forwards.tolist()
        (torch.Size([2]), [1, 1])
        >>> target.quality_and_grad(torch.rand(2, 3, 32, 32), lambda quality: -quality)
        Traceback (most recent call last):
        iqarena.bench.inference.target.TargetError: the attack declared access='score' and asked for a gradient
    """

    def __init__(
        self,
        model: QualityModel,
        count: int,
        access: Access,
        *,
        queries: int | None = None,
        draws: int = 1,
        seed: int = 0,
        precision: Precision = "float32",
    ) -> None:
        self.model, self.access, self.queries = model, access, queries
        self.draws = draws if model.info.stochastic else 1
        self.seed, self.precision = seed, precision
        self.counts = Counts(count)
        self.index = torch.arange(count)
        self.trace: QueryTrace | None = None

    def part(self, index: torch.Tensor) -> Target:
        """Return the same target for a part of the images; it shares counts and trace with the whole."""
        part = Target.__new__(Target)
        part.__dict__.update(self.__dict__)
        part.index = self.index[index.cpu()]
        return part

    @property
    def queries_left(self) -> int | None:
        """Queries still allowed for every image; each costs `draws` forward passes."""
        if self.queries is None:
            return None
        used = int(self.counts.forwards[self.index].max()) if len(self.index) else 0
        return max(self.queries - used, 0) // self.draws

    def quality(self, images: torch.Tensor) -> torch.Tensor:
        """Return qualities (N,), without a graph."""
        self._need("score")
        with torch.inference_mode():
            qualities = self._forward(images)
        return qualities.clone()

    def quality_and_grad(
        self, images: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return qualities (N,) and the gradient of ``loss(qualities)`` with respect to the images."""
        self._need("gradient")
        with torch.enable_grad():
            # a copy costs time at every step, so only inference tensors, which cannot have a gradient, are copied
            leaf = (images.clone() if images.is_inference() else images.detach()).requires_grad_()
            with gradient_precision(self.precision, leaf.device):
                qualities = self._forward(leaf)
            if not qualities.requires_grad:
                raise ModelError(f"{self.model.info.name}: no gradient reaches the pixels")
            used = _used_in_loss(qualities)
            (gradient,) = torch.autograd.grad(loss(qualities).sum(), leaf)
        self._count_backward(gradient, used)
        return qualities.detach(), gradient

    def module(self, loss: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
        """Return a differentiable module from images to ``loss(qualities)``, whose passes are counted as well."""
        self._need("gradient")
        return _Counted(self, loss)

    def _need(self, access: Access) -> None:
        allowed = {"score": {"score"}, "none": set()}.get(self.access, {"gradient", "score"})
        if access not in allowed:
            raise TargetError(f"the attack declared access={self.access!r} and asked for a {access}")

    def _count_backward(self, gradient: torch.Tensor, used: torch.Tensor) -> None:
        """Count a gradient (N, 3, H, W); `used`, (N,) bool, marks the images whose quality influences the loss."""
        self.counts.backwards[self.index] += self.draws
        self.counts.gradients[self.index] += 1
        dead = ~(gradient.amax(dim=(1, 2, 3)) > 0)  # zero or NaN, or, rarely, nowhere positive
        if dead.any():
            dead &= ~(gradient.amin(dim=(1, 2, 3)) < 0)
        self.counts.zero_gradients[self.index] += (dead & used).cpu().long()

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        qualities = self._answer(images)
        if self.trace is not None:
            self.trace.note(self.index, self.counts.forwards[self.index], qualities)
        return qualities

    def _answer(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) != len(self.index):
            raise TargetError(f"{len(images)} images came in for a batch of {len(self.index)}; use target.part for fewer")
        if self.queries_left == 0:
            raise TargetError(f"the query limit of {self.queries} forward passes an image is used up")
        self.counts.forwards[self.index] += self.draws
        with through_target():
            return self._asked(images)

    def _asked(self, images: torch.Tensor) -> torch.Tensor:
        if not self.model.info.stochastic:
            return checked_quality(self.model, images)
        with seeded(self.seed + int(self.counts.forwards.max())):
            return torch.stack([checked_quality(self.model, images) for _ in range(self.draws)]).mean(0)


class _Counted(nn.Module):
    """The module that other libraries get instead of the model."""

    def __init__(self, target: Target, loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.target, self.loss = target, loss

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not images.requires_grad:
            return self.loss(self.target._forward(images))
        images = images.view_as(images)
        with gradient_precision(self.target.precision, images.device):
            qualities = self.target._forward(images)
        used = _used_in_loss(qualities)
        images.register_hook(lambda gradient: self.target._count_backward(gradient, used))
        return self.loss(qualities)


def _used_in_loss(qualities: torch.Tensor) -> torch.Tensor:
    """Return a mask (N,) bool, filled in by the backward pass, of the images whose quality influences the loss.

    A loss may be flat for some images, as losses of other libraries are, or as that of an image at the reflection of its
    clean quality is. A zero gradient is not the model's fault then.
    """
    used = torch.ones_like(qualities, dtype=torch.bool)

    def mark(gradient: torch.Tensor) -> None:
        used.copy_(gradient.detach() != 0)

    if qualities.requires_grad:
        qualities.register_hook(mark)
    return used


_checked: WeakSet[QualityModel] = WeakSet()
"""Models whose first batch came back as it was."""


def _quality(model: QualityModel, images: torch.Tensor) -> torch.Tensor:
    """Return the model's qualities; check with its first batch that it leaves the images alone.

    A model that writes into them, as by ``x -= mean``, would change the images of an attack, which would be blamed for it.
    """
    if model in _checked:
        return model.quality(images)
    copy = images.clone()
    qualities = model.quality(copy)
    if not torch.equal(copy.detach(), images.detach()):
        raise ModelError(
            f"{model.info.name}: writes into the images that it is given, as by x -= mean; "
            "let it work on values of its own, as by x = x - mean"
        )
    _checked.add(model)
    return qualities


def checked_quality(model: QualityModel, images: torch.Tensor) -> torch.Tensor:
    """Return the model's qualities (N,) in float32.

    Raises:
        ModelError: if the model returns another shape or an integer type.
    """
    raw = _quality(model, images)
    if raw.shape != (len(images),) or not raw.is_floating_point():
        raise ModelError(
            f"{model.info.name}: returned {raw.dtype} of shape {tuple(raw.shape)} for {len(images)} images; "
            f"a model returns real scores of shape ({len(images)},)"
        )
    return raw.float()


@contextmanager
def frozen(model: QualityModel) -> Iterator[QualityModel]:
    """Keep the model in eval mode and without gradients of its weights while the context lasts."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)
