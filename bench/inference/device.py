"""How a model's passes are computed: where, in what layout, in which precision, on how many images at once.

Nothing here changes what is scored: scores are float32 passes on stored 8-bit images. Only `precision` changes attacked
images, and is part of a cell.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from iqarena.bench.errors import UserError
from iqarena.bench.suite import Batch, Precision
from iqarena.defenses.certified.smoothing import MeanOfDraws, SmoothedModel
from iqarena.defenses.purification.base import PurifiedModel
from iqarena.models.base import QualityModel

MOST_AT_ONCE = {"cpu": 16}
"""On a CPU larger batches are no faster, as their activations leave the caches; elsewhere up to 256."""

_ROOM = 2**30
"""Bytes that a batch may take on a CPU where no limit is given."""

_PASS_TO_SAVED = 3
"""A forward and backward pass takes at most about so many times what is saved between the two: gradients and workspace."""


@dataclass(frozen=True)
class Engine:
    """Where and how passes are computed.

    Attributes:
        device: "cpu", "cuda" (every GPU, with several processes one each), "cuda:1", "mps".
        compile: whether models go through `torch.compile`.
    """

    device: str = "cpu"
    compile: bool = False

    def checked(self) -> Engine:
        """Itself.

        Raises:
            UserError: where the device is unknown or not there.
        """
        kind, _, number = self.device.partition(":")
        if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
            raise UserError(f"device {self.device!r} is not one of cpu, cuda, cuda:N, mps")
        if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
            found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.device_count() else "no CUDA device"
            raise UserError(f"device {self.device}: torch {torch.__version__} finds {found} here; choose another --device")
        if kind == "mps" and not torch.backends.mps.is_available():
            raise UserError(f"device mps: torch {torch.__version__} finds no Apple GPU here; choose another --device")
        return self

    def devices(self) -> list[str]:
        """What several processes share out among them."""
        if self.device != "cuda" or torch.cuda.device_count() < 2:
            return [self.device]
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]

    def place(self, model: QualityModel, image: torch.Tensor) -> QualityModel:
        """A model made ready to be asked, in place: eval mode, on the device, weights channels last where it bears that.

        Convolutions then give channels-last maps whatever their input: a fifth faster on a CPU. A model that flattens maps
        by ``view`` cannot take them, and stays as it was.

        Args:
            model: any.
            image: one that it has to score, (3, H, W) uint8.
        """
        model.eval().to(self.device)
        model.to(memory_format=torch.channels_last)
        batch = image[None].expand(2, -1, -1, -1).to(self.device).float() / 255
        try:
            with torch.random.fork_rng([]), torch.inference_mode():
                model.quality(batch)
        except Exception:  # its own faults show again where they are recorded
            model.to(memory_format=torch.contiguous_format)
        if self.compile:
            _network(model).compile()
        return model

    def batch(self, wanted: Batch, model: QualityModel, image: torch.Tensor, memory: int | None) -> int:
        """How many images of one size go through a model at once.

        With "auto": a power of two, from what a pass of one image keeps for its backward pass, which is the same on every
        run.

        Args:
            wanted: a number, or "auto".
            model: placed.
            image: one of those, (3, H, W) uint8.
            memory: bytes that this process may hold; half of them are for a batch.
        """
        if wanted != "auto":
            return wanted
        kind = torch.device(self.device).type
        if memory is not None:
            room = memory // 2
        elif kind == "cuda":
            room = torch.cuda.get_device_properties(self.device).total_memory // 2
        else:
            room = _ROOM
        each = _PASS_TO_SAVED * saved_bytes(model, (image[None].to(self.device).float() / 255))
        most = min(room // max(each, 1), MOST_AT_ONCE.get(kind, 256))
        return int(2 ** (max(most, 1).bit_length() - 1))


def _network(model: QualityModel) -> QualityModel:
    """The network behind filters and random draws, whose own code may leave torch."""
    while isinstance(model, PurifiedModel | SmoothedModel | MeanOfDraws):
        model = model.model
    return model


def saved_bytes(model: QualityModel, images: torch.Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass, weights left out; at least four copies of the images."""
    own = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    same: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor  # noqa: E731
    with torch.random.fork_rng([]), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, same):
        quality = model.quality(images.clone().requires_grad_())
    del quality
    return max(sum(kept.values()), 4 * images.numel() * images.element_size())


def gradient_precision(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context in which forward passes that gradients are taken of run in a precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
