"""`pyiqa:METRIC`: no-reference metrics of IQA-PyTorch (Chen, Mo; https://github.com/chaofengc/IQA-PyTorch), extra ``pyiqa``.

The library is under the PolyForm Noncommercial licence. It downloads the weights of a metric when the metric is first
constructed, so using one implies the download; the record has a hash of all parameters. Weights are always loaded with
``weights_only=True``. Parameters other than the facts are passed to the constructor of the metric:
``pyiqa:cnniqa[pretrained_model_path=FILE]``.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import pickle
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch

from iqarena.models.bridges import Bridge, Facts
from iqarena.models.zoo import state_sha256

_EXACT = re.compile(r"\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*")


class PyIQA(Bridge):
    """A no-reference metric of pyiqa. Direction and range are those of the library; an approximate range is measured.

    Some metrics draw random crops from NumPy's global stream, which is seeded here from torch's stream, as set by the
    harness.
    """

    name: ClassVar[str] = "pyiqa:"
    about: ClassVar[str] = "a no-reference metric of pyiqa, such as pyiqa:musiq"

    def __init__(self, what: str, **options: Any) -> None:
        super().__init__(what)
        with _quiet(), _weights_only():
            try:
                library = import_module("pyiqa")
            except ModuleNotFoundError as error:
                raise ValueError(f"pyiqa: models need pyiqa; pip install 'iqarena[pyiqa]' ({error})") from None
            known = library.list_models(metric_mode="NR")
            if what not in known:
                close = difflib.get_close_matches(what, known, n=3)
                hint = (
                    f"did you mean {' or '.join(close)}?"
                    if close
                    else f"it has {len(known)}, such as {', '.join(known[:8])}"
                )
                raise ValueError(f"pyiqa has no no-reference metric {what!r}; {hint}")
            try:
                # with as_loss, the metric is differentiable
                self.metric = library.create_metric(what, as_loss=True, loss_reduction="none", device="cpu", **options)
            except pickle.UnpicklingError:
                raise ValueError(f"{self.info.name}: its weight file is refused, it holds more than tensors") from None
            except OSError as error:
                reason = " ".join(str(error).split())[:200]
                raise ValueError(f"{self.info.name}: its weights cannot be fetched or read ({reason})") from None
        exact = _EXACT.fullmatch(str(self.metric.score_range))
        low, high = map(float, exact.groups()) if exact else (None, None)
        self.stated = Facts(low, high, higher_is_better=not self.metric.lower_better)
        self.info = replace(self.info, licence="PolyForm Noncommercial (pyiqa); the weights are their authors'")
        # parameters outside the state of a metric, as for niqe, are determined by the version
        identity = repr((library.__version__, what, sorted(options.items()), state_sha256(self.metric)))
        self.sha256 = hashlib.sha256(identity.encode()).hexdigest()

    def ask(self, images: torch.Tensor) -> torch.Tensor:
        with _numpy_follows_torch() if self.info.stochastic else contextlib.nullcontext():
            scores: torch.Tensor = self.metric(images)
        return scores


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Redirect the library's output to stderr, and silence the warnings of its imports, inside the context."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Make torch.load accept only tensors inside the context, even if it is called with weights_only=False."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


@contextlib.contextmanager
def _numpy_follows_torch() -> Iterator[None]:
    state = np.random.get_state()
    np.random.seed(int(torch.randint(2**31, ())))
    try:
        yield
    finally:
        np.random.set_state(state)
