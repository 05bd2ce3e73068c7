"""Records for leaderboards: two dozen images with good, weak and bad scores."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
import pandas as pd
import torch

from iqarena.bench.results.columns import IMAGE_COLUMNS
from iqarena.bench.results.store import Records

IMAGES, PER_REFERENCE = 24, 2
MOS = np.linspace(0.1, 0.9, IMAGES)
NOISE = np.random.default_rng(0).normal(size=(6, IMAGES))
GOOD, WEAK, BAD = MOS + 0.1 * NOISE[0], MOS + 0.6 * NOISE[1], -MOS + 0.3 * NOISE[2]
CLEAN = MOS + 0.05 * NOISE[3]


def put(records: Records, adv: Any, *, clean: Any = CLEAN, references: int | None = None, **changes: Any) -> None:
    """Write the record of one cell; `changes` replace fields of the cell or, where they belong there, of the record."""
    cell = {"dataset": "demo", "model": "m", "defense": "none", "attack": "pgd", "objective": "away", "norm": "linf",
            "eps": 2 / 255, "queries": None, "setting": "oblivious", "seed": 0, "draws": 8, "target": 1.0,
            "source": "", "precision": "float32"}  # fmt: skip
    cell |= {name: changes[name] for name in cell if name in changes}
    count = len(adv)
    names = [f"r{i // PER_REFERENCE if references is None else i % references:02d}" for i in range(count)]
    labelled, fingerprint = changes.get("label_kind") != "none", changes.get("fingerprint", "f" * 64)
    labels = changes.get("mos", MOS)[:count] if labelled else np.nan
    cell_id = "-".join(re.sub(r"\W+", "_", str(value)) for value in [*cell.values(), count])
    cell_id += fingerprint.strip("f") + changes.get("content", "")
    if len(cell_id) > 200:
        cell_id = hashlib.sha256(cell_id.encode()).hexdigest()
    images = pd.DataFrame(
        {"image_id": [f"p{i:02d}" for i in range(count)], "reference_id": names, "mos": labels,
         "clean_quality": clean[:count], "adv_quality": adv, "status": changes.get("status", "ok")}
    )  # fmt: skip
    images = images.iloc[::-1] if changes.get("backwards") else images
    record = {
        "cell_id": cell_id,
        "cell": cell,
        "status": changes.get("status", "ok"),
        "errors": changes.get("errors", []),
        "n_images": count,
        "measures": {"certified_srocc": changes.get("certified")},
        "costs": {},
        "flags": changes.get("flags", []),
        "provenance": {"finished": changes.get("finished", "")},
        "attack": {"control": cell["attack"] == "random-noise", "paper": ""},
        "defense": {
            "kind": changes.get("kind", "none"),
            "stochastic": False,
            "paper": "",
            "weights_sha256": changes.get("weights", "w"),
        },
        "model": {"paper": "https://example.org/m", "weights_sha256": changes.get("weights", "w")},
        "dataset": {"label_kind": changes.get("label_kind", "pseudo-MOS"), "fingerprint": fingerprint}
        | ({"content_sha256": changes["content"]} if "content" in changes else {}),
        "crafting": re.sub(r"\W+", "_", f"{cell['model']} {cell['attack']}"),
        "score_seconds_an_image": {"defended": changes.get("seconds", 1.0), "undefended": 0.5},
    }
    pixels = {name: torch.full((3, 8, 8), int(name[1:]), dtype=torch.uint8) for name in images.image_id}
    kept = [image + 1 for image in pixels.values()] if changes.get("kept") else None
    if kept:
        records.kept_images.keep_originals("f" * 64, pixels.items())
    records.write(record, images.reindex(columns=IMAGE_COLUMNS), kept)
