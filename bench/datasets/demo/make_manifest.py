"""Writes ``demo.csv``: label and sha256 of every demo image. Needs the extra ``labels`` (piq).

python -m iqarena.bench.datasets.demo.make_manifest
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from rich.progress import track

from iqarena.bench.datasets.demo.dataset import MANIFEST, pixel_hash, render
from iqarena.bench.datasets.demo.distortions import Pixels
from iqarena.bench.datasets.demo.pseudo_mos import load_consensus, measure, pseudo_mos


def main() -> None:
    """Render the demo images, compute their labels and write the manifest."""
    consensus = load_consensus()
    rows = []
    reference: torch.Tensor | None = None
    for image_id, reference_id, distortion, level, image in track(list(render()), "measuring"):
        pixels = _tensor(image)
        reference = pixels if distortion == "pristine" else reference
        assert reference is not None  # the pristine version of each crop comes first
        label = pseudo_mos(measure(reference, pixels), consensus)[0]
        rows.append((image_id, reference_id, distortion, level, round(float(label), 5), pixel_hash(image)))
    columns = ["image_id", "reference_id", "distortion", "level", "mos", "sha256"]
    pd.DataFrame(rows, columns=columns).to_csv(MANIFEST, index=False)


def _tensor(image: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float() / 255


if __name__ == "__main__":
    main()
