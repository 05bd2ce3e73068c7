"""`torchscript:FILE`: a network saved by ``torch.jit.save``.

Loading and running such a file executes its code in TorchScript's virtual machine: no Python code and no classes from
outside the archive, so it cannot do what a pickle can. But its operators can write files (``torch.save``), and the PyTorch
project advises against loading untrusted files.
"""

from __future__ import annotations

import io
from typing import Any, ClassVar

import torch

from iqarena.models.bridges import FileBridge


class TorchScript(FileBridge):
    """A scripted or traced network from RGB images (N, 3, H, W) in [0, 1] to scores (N,) or (N, 1)."""

    name: ClassVar[str] = "torchscript:"
    about: ClassVar[str] = "a file written by torch.jit.save"

    def __init__(self, what: str, **options: Any) -> None:
        super().__init__(what, **options)
        try:
            self.module = torch.jit.load(io.BytesIO(self.content), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{what}: no TorchScript archive ({reason}); write one with torch.jit.save") from None
        del self.content

    def ask(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.module(images)
        return scores
