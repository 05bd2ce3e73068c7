"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.process import use_threads
from iqarena.bench.results.store import Records
from tests.support.attack_runs import random_pixels
from tests.support.textures import Textures

if "PYTEST_XDIST_WORKER" in os.environ:  # with as many processes as cores, threads get in each other's way
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    use_threads(1)

hypothesis.settings.register_profile("iqarena", deadline=None, derandomize=True, database=None, max_examples=60)
hypothesis.settings.load_profile("iqarena")


def _images() -> dict[str, torch.Tensor]:
    ramp = torch.arange(20, dtype=torch.uint8).mul(12).expand(3, 24, 20).contiguous()
    hard = (random_pixels(1, 24, 20, seed=2)[0] > 127).to(torch.uint8) * 255
    return {
        "random": random_pixels(1, 24, 20)[0],
        "grey": torch.full((3, 24, 20), 128, dtype=torch.uint8),
        "black": torch.zeros((3, 24, 20), dtype=torch.uint8),
        "white": torch.full((3, 24, 20), 255, dtype=torch.uint8),
        "saturated": hard,
        "gradient": ramp,
        "odd": random_pixels(1, 33, 47, seed=3)[0],
    }


@pytest.fixture
def images() -> dict[str, torch.Tensor]:
    """Images (3, H, W) uint8 by name: noise, flat ones, the ends of the range, a one-pixel-wide ramp, odd sides."""
    return _images()


@pytest.fixture(scope="session")
def natural() -> np.ndarray:
    """A crop of a natural image, (96, 96, 3) uint8."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[20:116, 180:276])


@pytest.fixture
def data_root() -> Path:
    """Folder of the published data sets."""
    if not os.environ.get("IQARENA_DATA"):
        pytest.skip("IQARENA_DATA names no folder with data sets")
    return Path(os.environ["IQARENA_DATA"])


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """An empty results folder."""
    results = Records(tmp_path / "results")
    results.prepare()
    return results


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure facts of models on images that are fast to generate."""
    monkeypatch.setattr("iqarena.bench.inference.measured_info.Demo", Textures)


@pytest.fixture
def small(tmp_path: Path) -> ImageDataset:
    """Eight random images of four references, labelled by their mean."""
    root = tmp_path / "images"
    root.mkdir()
    rows = []
    stream = np.random.default_rng(3)
    for number in range(8):
        pixels = stream.integers(40 + 20 * number, 60 + 24 * number, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        rows.append((f"{number}.png", f"ref{number % 4}", float(pixels.mean() / 255)))
    pd.DataFrame(rows, columns=["image", "reference_id", "mos"]).to_csv(root / "labels.csv", index=False)
    return Folder(root)
