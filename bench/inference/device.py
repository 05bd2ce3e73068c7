"""Device, memory layout, precision and batch size of forward and backward passes.

Nothing here changes the definition of scores, which are float32 passes on stored 8-bit images. Only `precision` changes
attacked images, and it is part of a cell.
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

LARGEST_BATCH = {"cpu": 16}
"""Largest automatic batch by kind of device, elsewhere 256. On a CPU larger batches are not faster, as their activations do
not fit into the caches."""

_CPU_BYTES = 2**30
"""Bytes that a batch may use on a CPU if no limit is given."""

_PASS_TO_SAVED = 3
"""Ratio of the peak memory of a forward and backward pass, with gradients and workspace, to the activations that are saved
for the backward pass; an upper estimate."""


@dataclass(frozen=True)
class Engine:
    """The device of a run, and how models are prepared for it.

    Attributes:
        device: "cpu", "cuda" (all GPUs, one for each of several processes), "cuda:1", "mps".
        compile: whether models are compiled by `torch.compile`.
    """

    device: str = "cpu"
    compile: bool = False

    def checked(self) -> Engine:
        """Return the engine itself after checking its device.

        Raises:
            UserError: if the device is unknown or not available.
        """
        kind, _, number = self.device.partition(":")
        if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
            raise UserError(f"device {self.device!r} is not one of cpu, cuda, cuda:N, mps")
        if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
            available = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.device_count() else "no CUDA device"
            raise UserError(
                f"device {self.device}: torch {torch.__version__} finds {available} here; choose another --device"
            )
        if kind == "mps" and not torch.backends.mps.is_available():
            raise UserError(f"device mps: torch {torch.__version__} finds no Apple GPU here; choose another --device")
        return self

    def devices(self) -> list[str]:
        """Return the devices that several processes are distributed over."""
        if self.device != "cuda" or torch.cuda.device_count() < 2:
            return [self.device]
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]

    def place(self, model: QualityModel, image: torch.Tensor) -> QualityModel:
        """Prepare a model in place: eval mode, on the device, weights in the channels-last layout if the model supports it.

        Convolutions then return channels-last maps for any input, which is a fifth faster on a CPU. A model that flattens
        maps by ``view`` does not support them, and keeps its layout.

        Args:
            model: the model.
            image: one of the images that it is to score, (3, H, W) uint8.
        """
        model.eval().to(self.device)
        model.to(memory_format=torch.channels_last)
        batch = image[None].expand(2, -1, -1, -1).to(self.device).float() / 255
        try:
            with torch.random.fork_rng([]), torch.inference_mode():
                model.quality(batch)
        except Exception:  # an error of the model itself occurs again later, where it is recorded
            model.to(memory_format=torch.contiguous_format)
        if self.compile:
            _network(model).compile()
        return model

    def batch(self, wanted: Batch, model: QualityModel, image: torch.Tensor, memory: int | None) -> int:
        """Return the batch size of a model for images of one size.

        With "auto" it is a power of two, computed from the bytes that a forward pass of one image saves for its backward
        pass, so it is the same in every run.

        Args:
            wanted: a number, or "auto".
            model: the model, on the device.
            image: one of the images, (3, H, W) uint8.
            memory: memory limit of this process in bytes; half of it is for a batch.
        """
        if wanted != "auto":
            return wanted
        kind = torch.device(self.device).type
        if memory is not None:
            available = memory // 2
        elif kind == "cuda":
            available = torch.cuda.get_device_properties(self.device).total_memory // 2
        else:
            available = _CPU_BYTES
        per_image = _PASS_TO_SAVED * saved_bytes(model, (image[None].to(self.device).float() / 255))
        most = min(available // max(per_image, 1), LARGEST_BATCH.get(kind, 256))
        return int(2 ** (max(most, 1).bit_length() - 1))


def _network(model: QualityModel) -> QualityModel:
    """Return the network inside of filters and of averages over random draws, whose code may leave torch."""
    while isinstance(model, PurifiedModel | SmoothedModel | MeanOfDraws):
        model = model.model
    return model


def saved_bytes(model: QualityModel, images: torch.Tensor) -> int:
    """Measure the bytes that a forward pass saves for the backward pass, without weights; at least four times the images."""
    weights = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    unpack: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor  # noqa: E731
    with torch.random.fork_rng([]), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        quality = model.quality(images.clone().requires_grad_())
    del quality
    return max(sum(saved.values()), 4 * images.numel() * images.element_size())


def gradient_precision(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return a context that sets the precision of forward passes that gradients are computed through."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
