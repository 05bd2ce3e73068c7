"""One image under attack, for `iqarena attack` and `iqarena explain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from iqarena.attacks.base import Access, Attack
from iqarena.bench.cli.attack_image import attack_image
from iqarena.bench.cli.explain import explain
from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.examples import enlarged
from iqarena.bench.registry import ATTACKS, Entry


@dataclass(frozen=True)
class Hungry(Attack):
    """An attack that allocates more memory than there is."""

    name: ClassVar[str] = "hungry"
    access: ClassVar[Access] = "gradient"

    def run(self, *_: Any) -> Any:
        raise MemoryError("9 GiB")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 72, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def hungry(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(ATTACKS.entries, "hungry", Entry("hungry", Hungry))
    return "hungry"


def read(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.array(opened)


def test_an_attack_that_runs_out_of_memory_is_one_line(image: Path, hungry: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^out of memory: MemoryError: 9 GiB$"):
        attack_image(image, "cnniqa", "none", hungry, None, None, None, 0, tmp_path)
    with pytest.raises(UserError, match=r"^out of memory: MemoryError: 9 GiB$"):
        explain(image, "resnet-iqa", "cprl", attack=hungry)


def test_the_difference_that_is_written_is_enlarged_around_grey(image: Path, tmp_path: Path) -> None:
    attack_image(image, "cnniqa", "none", "fgsm", None, None, "4/255", 0, tmp_path / "out")
    before, after, difference = (read(tmp_path / f"out/a-{name}.png") for name in ("before", "after", "difference"))
    assert (before == read(image)).all()
    assert (difference == enlarged(before, after)).all()
    assert {*np.unique(difference)} <= {128 + 16 * step for step in range(-4, 5)}


@pytest.mark.parametrize(("levels", "shown"), [(0, 128), (1, 144), (-1, 112), (7, 240), (8, 255), (-8, 0), (-9, 0)])
def test_differences_beyond_eight_levels_are_black_or_white(levels: int, shown: int) -> None:
    before = np.full((1, 1, 3), 100, np.uint8)
    assert enlarged(before, before + np.int64(levels).astype(np.uint8)).tolist() == [[[shown] * 3]]
