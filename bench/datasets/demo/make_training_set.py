"""Builds a training set: crops of pristine images, distorted at random, labelled with pseudo-MOS.

    python -m iqarena.bench.datasets.demo.make_training_set OUT IMAGES [IMAGES …]

writes ``OUT/images/*.png`` and ``OUT/labels.csv`` (a `folder` data set) and ``OUT/consensus.json``. Needs the extra
``labels`` (piq). About a tenth of the images, chosen by a hash of their name, is the validation split.

Each image gives up to four crops at its own scale and one crop of a rescaled copy, since pristine images differ in
sharpness.
"""

from __future__ import annotations

import hashlib
import json
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from PIL import Image
from rich.progress import track

from iqarena.bench.datasets.demo.distortions import DISTORTIONS, Pixels
from iqarena.bench.datasets.demo.pseudo_mos import MEASURES, fit_consensus, load_consensus, measure, pseudo_mos
from iqarena.bench.process import use_threads

CROP = 192
VERSIONS = 12  # distorted versions of each crop


def _stream(*names: object) -> np.random.RandomState:
    """Return a random stream that depends only on the names."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return np.random.RandomState(int.from_bytes(digest[:4], "big"))


def split_of(reference_id: str) -> str:
    """Return "validation" for about a tenth of the images, else "training"; all crops of an image are in the same split."""
    return "validation" if hashlib.sha256(reference_id.encode()).digest()[0] < 26 else "training"


def _crops(image: Pixels, *names: object, most: int) -> list[Pixels]:
    """Return at most `most` crops from a grid of non-overlapping positions."""
    height, width = image.shape[:2]
    stream = _stream("crops", *names)
    rows = CROP * np.arange(height // CROP) + stream.randint(0, height % CROP + 1)
    columns = CROP * np.arange(width // CROP) + stream.randint(0, width % CROP + 1)
    corners = [(y, x) for y in rows for x in columns]
    chosen = [corners[i] for i in stream.permutation(len(corners))[:most]]
    return [image[y : y + CROP, x : x + CROP] for y, x in chosen]


def _rescaled(image: Pixels, reference_id: str) -> tuple[float, Pixels]:
    """Rescale an image by a random factor from 0.6 to 1.8; return the factor and the image."""
    scale = float(np.exp(_stream("scale", reference_id).uniform(np.log(0.6), np.log(1.8))))
    scale = max(scale, CROP / min(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return scale, np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _make_image(job: tuple[Path, Path]) -> list[dict[str, object]]:
    """Write all crops and versions of one image, and return one row per file with its raw measures."""
    path, out = job
    with Image.open(path) as opened:
        image = np.asarray(opened.convert("RGB"))
    scale, copy = _rescaled(image, path.stem)
    crops = [(1.0, crop) for crop in _crops(image, path.stem, most=4)]
    crops += [(scale, crop) for crop in _crops(copy, path.stem, "rescaled", most=1)]
    rows: list[dict[str, object]] = []
    for number, (scale, crop) in enumerate(crops):
        stream = _stream("versions", path.stem, number)
        kinds = stream.permutation(len(DISTORTIONS))[:VERSIONS]
        versions = [("pristine", 0.0, crop)]
        for kind in kinds:
            level = stream.uniform(1, 5)
            versions.append((DISTORTIONS[kind].name, level, DISTORTIONS[kind].apply(crop, level, stream)))
        batch = torch.from_numpy(np.stack([version for *_, version in versions])).permute(0, 3, 1, 2).float() / 255
        values = measure(batch[:1].expand_as(batch), batch)
        for (kind_name, level, version), numbers in zip(versions, values, strict=True):
            name = f"{path.stem}_{number}_{kind_name}.png"
            Image.fromarray(version).save(out / "images" / name, compress_level=1)
            rows.append(
                {
                    "image": f"images/{name}",
                    "reference_id": path.stem,
                    "distortion": kind_name,
                    "level": level,
                    "scale": round(scale, 4),
                    "split": split_of(path.stem),
                }
                | dict(zip(MEASURES, numbers, strict=True))
            )
    return rows


def main(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    images: Annotated[list[Path], typer.Argument(help="folders of pristine images, searched recursively")],
    workers: int = 2,
    refit: Annotated[bool, typer.Option(help="fit the percentiles anew instead of using the project's own")] = False,
) -> None:
    """Distort pristine images and label the results."""
    paths = sorted(path for folder in images for path in folder.rglob("*") if path.suffix in {".png", ".jpg"})
    if not paths:
        raise typer.BadParameter(f"no .png or .jpg below {', '.join(map(str, images))}")
    (out / "images").mkdir(parents=True, exist_ok=True)
    with get_context("spawn").Pool(workers, use_threads, (1,)) as pool:
        done = pool.imap(_make_image, [(path, out) for path in paths], chunksize=2)
        rows = [row for rows in track(done, "labelling", total=len(paths)) for row in rows]
    table = pd.DataFrame(rows)
    distorted = table[(table.distortion != "pristine") & (table.scale == 1)]
    consensus = fit_consensus(distorted[list(MEASURES)].to_numpy()) if refit else load_consensus()
    (out / "consensus.json").write_text(json.dumps(consensus, indent=1) + "\n")
    table["mos"] = pseudo_mos(table[list(MEASURES)].to_numpy(), consensus)
    table.to_csv(out / "labels.csv", index=False)
    print(f"{len(table)} images of {table.reference_id.nunique()} images in {out}")


if __name__ == "__main__":
    typer.run(main)
