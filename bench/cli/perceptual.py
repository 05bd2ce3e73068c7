"""LPIPS and DISTS of stored attacked images: ``python -m iqarena.bench.cli.perceptual RESULTS --lpips FILE --dists FILE``.

Both need the weights of VGG-16 and of their authors in local files. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import safetensors.torch
import torch
import typer
from torch import nn
from torch.nn import functional

from iqarena.attacks import dists as dists_
from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.pixels import rgb_image
from iqarena.bench.errors import UserError, exit_on_user_error
from iqarena.bench.results.store import Records

WEIGHTS = (
    "one .safetensors or .pth file with features.N.weight and features.N.bias of torchvision's VGG-16 (IMAGENET1K_V1), and "
    "lin0.weight to lin4.weight of weights/v0.1/vgg.pth in https://github.com/richzhang/PerceptualSimilarity"
)
"""The weights that LPIPS needs, and their sources."""

_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Convolutions of VGG-16 in torchvision's numbering; features are compared after the last convolution of each stage."""
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A function of attacked and clean images, both (N, 3, H, W) in [0, 1]; returns distances (N,)."""


class LPIPS(nn.Module):
    """Learned perceptual distance (Zhang, Isola, Efros, Shechtman, Wang, CVPR 2018, arXiv 1801.03924), VGG-16, version 0.1.

    Σ over five stages of the mean over positions of Σ_c w_c (x̂_c − ŷ_c)², with features of unit length at every position.
    0 is no difference; [0, ∞), lower is a less visible attack.

    Args:
        weights: ``features.N.weight`` and ``features.N.bias`` of the convolutions; ``linK.weight`` (1, C, 1, 1) of each
            stage, also as ``linK.model.1.weight``.

    Raises:
        ValueError: where a tensor is missing or shapes do not match.
    """

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        weights = {name.replace(".model.1.", "."): value for name, value in weights.items()}
        needed = [f"features.{at}.{kind}" for stage in _STAGES for at in stage for kind in ("weight", "bias")]
        needed += [f"lin{number}.weight" for number in range(len(_STAGES))]
        missing = [name for name in needed if name not in weights]
        if missing:
            raise ValueError(f"the LPIPS weights lack {', '.join(missing)}; needed is {WEIGHTS}")
        for number, stage in enumerate(_STAGES):
            if weights[f"lin{number}.weight"].numel() != len(weights[f"features.{stage[-1]}.bias"]):
                raise ValueError(f"lin{number}.weight of the LPIPS weights must have a value for each channel of its stage")
        for name in needed:
            self.register_buffer(name.replace(".", "_"), weights[name].float())

    def forward(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Return distances (N,) of images (N, 3, H, W) in [0, 1], at least 16×16."""
        mean, deviation = (images.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
        at = (torch.cat([images, clean]) - mean) / deviation
        total = images.new_zeros(len(images))
        for number, stage in enumerate(_STAGES):
            if number > 0:
                at = functional.max_pool2d(at, 2)
            for layer in stage:
                kernel, bias = (self.get_buffer(f"features_{layer}_{kind}") for kind in ("weight", "bias"))
                at = functional.relu(functional.conv2d(at, kernel, bias, padding=1))
            x, y = (at / (at.norm(dim=1, keepdim=True) + 1e-10)).chunk(2)
            channel_weights = self.get_buffer(f"lin{number}_weight").view(1, -1, 1, 1)
            total = total + ((x - y) ** 2 * channel_weights).sum(dim=1).mean(dim=(1, 2))
        return total


def load_lpips(path: Path) -> Distance:
    """Load LPIPS with the weights of a file.

    Raises:
        UserError: where the file is missing, cannot be read as weights, or lacks some.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; needed is {WEIGHTS}")
    try:
        if path.suffix == ".safetensors":
            return LPIPS(safetensors.torch.load_file(path)).eval()
        return LPIPS(torch.load(path, map_location="cpu", weights_only=True)).eval()
    except ValueError as error:
        raise UserError(str(error)) from None
    except Exception as error:
        raise UserError(f"{path} cannot be read as weights ({type(error).__name__}); needed is {WEIGHTS}") from None


def load_dists(path: Path) -> Distance:
    """Load DISTS with the weights of a file, see `iqarena.attacks.dists`.

    Raises:
        UserError: where the file is missing, cannot be read as weights, or lacks some.
    """
    try:
        model = dists_.load(path).eval()
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from None
    return lambda images, clean: model(images, model.features(clean))


def measure(records: Records, root: Path | None, distances: Mapping[str, Distance]) -> pd.DataFrame:
    """Measure the distances of every image that a run with ``--keep-images`` stored.

    Args:
        records: a results folder.
        root: the folder of a data set that is not embedded.
        distances: distance functions by column name.

    Returns:
        A table with cell_id, image_id and a column per distance; cells that share their images are measured once.

    Raises:
        UserError: where no images were stored, or the data set lacks one of them.
    """
    rows: list[dict[str, object]] = []
    opened: dict[str, dict[str, torch.Tensor]] = {}
    by_crafting: dict[str, list[dict[str, float]]] = {}
    for record in records.all():
        kept = records.attacked_images(record)
        if kept is None:
            continue
        name = str(record["cell"]["dataset"])
        ids = list(records.images(record["cell_id"]).image_id)
        if record["crafting"] not in by_crafting:
            clean = opened.setdefault(name, {})
            _fill(clean, ids, open_dataset(name, root))
            pairs = zip(kept, (clean[image_id] for image_id in ids), strict=True)
            by_crafting[record["crafting"]] = [_distances(attacked, before, distances) for attacked, before in pairs]
        measured = zip(ids, by_crafting[record["crafting"]], strict=True)
        rows += [{"cell_id": record["cell_id"], "image_id": image_id, **values} for image_id, values in measured]
    if not rows:
        raise UserError(f"{records.folder}: no attacked images were kept; make some with iqarena run --keep-images")
    return pd.DataFrame(rows)


def _fill(clean: dict[str, torch.Tensor], ids: Sequence[str], dataset: ImageDataset) -> None:
    """Add the images that are missing from `clean`."""
    indices = {sample.image_id: index for index, sample in enumerate(dataset.samples)}
    for image_id in ids:
        if image_id not in indices:
            raise UserError(f"{dataset.name} has no image {image_id}; give the folder that the run was made with as --root")
        if image_id not in clean:
            clean[image_id] = rgb_image(dataset, indices[image_id])


def _distances(attacked: torch.Tensor, clean: torch.Tensor, distances: Mapping[str, Distance]) -> dict[str, float]:
    with torch.inference_mode():
        pair = [image[None].float() / 255 for image in (attacked, clean)]
        return {name: float(distance(*pair)) for name, distance in distances.items()}


@exit_on_user_error("perceptual")
def main(
    results: Annotated[Path, typer.Argument(help="results folder of a run with --keep-images")],
    lpips: Annotated[Path | None, typer.Option(help="weights of LPIPS")] = None,
    dists: Annotated[Path | None, typer.Option(help="weights of DISTS")] = None,
    root: Annotated[Path | None, typer.Option(help="folder of a data set that is not embedded")] = None,
) -> None:
    """Write perceptual.csv, a row per cell and image, into the results folder."""
    distances: dict[str, Distance] = {}
    if lpips:
        distances["lpips"] = load_lpips(lpips)
    if dists:
        distances["dists"] = load_dists(dists)
    if not distances:
        raise UserError("give --lpips, --dists or both")
    table = measure(Records(results), root, distances)
    table.to_csv(results / "perceptual.csv", index=False)
    typer.echo(table.drop(columns="image_id").groupby("cell_id").mean().to_string())
    typer.echo(results / "perceptual.csv")


if __name__ == "__main__":
    typer.run(main)
