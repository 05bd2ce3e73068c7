"""`onnx:FILE`: a network in the ONNX format, run by onnxruntime (extra ``onnx``). Scores only, without a gradient.

The file holds a graph of operators and no code. It must be a single file that includes the weights.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch

from iqarena.models.bridges import FileBridge

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


class Onnx(FileBridge):
    """A graph with one input, RGB images (N, 3, H, W) in [0, 1] of any height and width, whose first output is the score.

    If N is fixed, images are evaluated in groups of that size, and the last group is padded.
    """

    name: ClassVar[str] = "onnx:"
    about: ClassVar[str] = "a file in the ONNX format"
    differentiable: ClassVar[bool] = False

    def __init__(self, what: str, **options: Any) -> None:
        super().__init__(what, **options)
        try:
            runtime = import_module("onnxruntime")
        except ModuleNotFoundError:
            raise ValueError("onnx: models need onnxruntime; pip install 'iqarena[onnx]'") from None
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = runtime.InferenceSession(self.content, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no other common base class
            raise ValueError(f"{what}: onnxruntime cannot load it ({' '.join(str(error).split())[:200]})") from None
        del self.content
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _TYPES or len(inputs[0].shape) != 4:
            described = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise ValueError(f"{what}: has the inputs {described}; export it with one, images (N, 3, H, W) of real numbers")
        self.input, self.precision = inputs[0].name, _TYPES[inputs[0].type]
        count, channels, *sides = inputs[0].shape
        if channels != 3 and isinstance(channels, int):
            raise ValueError(f"{what}: takes {channels} channels; export it for RGB images (N, 3, H, W)")
        if fixed := [side for side in sides if isinstance(side, int)]:
            raise ValueError(f"{what}: takes one size only ({fixed[0]}); export it for any size, resizing inside")
        self.count = count if isinstance(count, int) else None

    def ask(self, images: torch.Tensor) -> torch.Tensor:
        group_size = self.count or len(images)
        values = images.detach().cpu().numpy().astype(self.precision)
        values = np.concatenate([values, np.repeat(values[-1:], -len(values) % group_size, axis=0)])
        scores = [
            np.asarray(self.session.run(None, {self.input: values[start : start + group_size]})[0]).reshape(group_size, -1)
            for start in range(0, len(values), group_size)
        ]
        return torch.from_numpy(np.concatenate(scores)[: len(images)])
