"""`evaluate` has the same numbers whatever the caller has set in torch, and leaves his settings alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pandas as pd
import pytest
import torch

from iqarena import evaluate
from iqarena.bench.datasets.base import ImageDataset
from tests.support.analytic_models import LinearModel


@contextmanager
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def _medium() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


CALLERS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "float64": _double,
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "medium precision": _medium,
}
COLUMNS = ["status", "srocc_clean", "srocc_adv", "abs_gain", "forwards_mean", "backwards_mean"]


@pytest.mark.parametrize("name", CALLERS)
def test_settings_of_the_caller_change_no_number(small: ImageDataset, name: str) -> None:
    attacks = ["fgsm", "pgd[steps=3]", "square[queries=20]"]
    defenses = ["none", "jpeg"]
    model = LinearModel()  # made here, since torch draws other numbers in float64
    expected = evaluate(model, attacks=attacks, defenses=defenses, dataset=small)
    with CALLERS[name]():
        found = evaluate(model, attacks=attacks, defenses=defenses, dataset=small)
    assert set(expected.status) == {"ok"}
    pd.testing.assert_frame_equal(pd.DataFrame(found)[COLUMNS], pd.DataFrame(expected)[COLUMNS])
