"""Trains the filters that are networks: ``python -m iqarena.defenses.purification.train_denoiser --filter NAME --images FOLDER``.

Both learn to give the clean image back (mean squared error): `denoiser` from Gaussian noise whose standard deviation is
drawn evenly from 0 to 0.15 for each image, `fcn-filter` from images on which the undefended model was attacked, in the
loop, with a ball of up to 8/255 drawn for each image and a direction, better or worse, too. The loop is that of the
training defenses: its checkpoint is resumed from, its budget is counted in passes. Train `fcn-filter` on crops as large as
the images that it shall filter: its InstanceNorm makes it another filter on another size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from torch import nn

from iqarena.defenses.purification.denoiser import ResidualDenoiser
from iqarena.defenses.purification.fcn_filter import FCN
from iqarena.defenses.training.loop import Choose, Progress, Schedule, train
from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.resnet_iqa import ResNetIQA
from iqarena.models.zoo import ZOO, load_weights, save_weights, weight_file

MOST_NOISE, MOST_ATTACK = 0.15, 8 / 255
INNER_STEPS = 3
SIDE = 192
"""Of the demo set's images; filters are measured on such parts, from the middle of images, beside whole ones."""
FILTERS: dict[str, type[nn.Module]] = {"denoiser": ResidualDenoiser, "fcn-filter": FCN}
Spoil = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Clean images (N, 3, H, W) in [0, 1] to spoilt ones."""


class Folder:
    """All JPEG and PNG files of a folder, in subfolders too, sorted by path; they have no labels."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not self.files:
            raise ValueError(f"{folder} holds no JPEG or PNG file")

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all files."""
        return sha256("".join(sha256(file.read_bytes()).hexdigest() for file in self.files).encode()).hexdigest()

    def image(self, index: int) -> torch.Tensor:
        """(3, H, W) uint8."""
        with Image.open(self.files[index]) as opened:
            return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)

    def part(self, index: int, choose: Choose) -> torch.Tensor:
        """A part of it, (3, height, width) uint8."""
        with Image.open(self.files[index]) as opened:
            top, left, height, width = choose(opened.height, opened.width)
            crop = opened.convert("RGB").crop((left, top, left + width, top + height))
            return torch.from_numpy(np.array(crop)).permute(2, 0, 1)

    def mos(self, index: int) -> float:
        """None is known."""
        return math.nan


class Restoration(QualityModel):
    """A filter on trial: the score of a clean image is the mean squared error of what comes back once it was spoilt."""

    info = ModelInfo("restoration", min_size=1, higher_is_better=False)

    def __init__(self, network: nn.Module, spoil: Spoil) -> None:
        super().__init__()
        self.network, self.spoil = network, spoil
        self.generator = torch.Generator()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # of torch's global stream, which a resumed training puts back
        self.generator.manual_seed(int(torch.randint(2**62, ())))
        with torch.autocast(images.device.type, enabled=False):
            spoilt = self.spoil(images, self.generator)
        restored: torch.Tensor = self.network(spoilt)
        return (restored.float() - images).square().mean(dim=(1, 2, 3))


def _errors(model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> Iterator[torch.Tensor]:
    yield model(images).mean()


def noisy(images: torch.Tensor, generator: torch.Generator, sigma: float | None = None) -> torch.Tensor:
    """Gaussian noise of a standard deviation, drawn evenly up to `MOST_NOISE` for each image if left out; not clipped."""
    if sigma is None:
        level = MOST_NOISE * torch.rand((len(images), 1, 1, 1), generator=generator)
    else:
        level = torch.full((len(images), 1, 1, 1), sigma)
    return images + (level * torch.randn(images.shape, generator=generator)).to(images)


def attacked(
    images: torch.Tensor, generator: torch.Generator, model: QualityModel, epsilon: float | None = None
) -> torch.Tensor:
    """Images on which a model was attacked: sign steps from a random start, in a ball drawn up to `MOST_ATTACK`."""
    if epsilon is None:
        size = MOST_ATTACK * torch.rand((len(images), 1, 1, 1), generator=generator).to(images)
    else:
        size = torch.full((len(images), 1, 1, 1), epsilon).to(images)
    way = (2 * torch.randint(2, (len(images),), generator=generator) - 1).to(images)
    shift = size * (2 * torch.rand(images.shape, generator=generator).to(images) - 1)
    with torch.enable_grad():
        for _ in range(INNER_STEPS):
            leaf = (images + shift).clamp(0, 1).detach().requires_grad_()
            (gradient,) = torch.autograd.grad((way * model.quality(leaf)).sum(), leaf)
            shift = (shift + 1.25 * size / INNER_STEPS * gradient.sign()).clamp(-size, size)
    return (images + shift).clamp(0, 1).detach()


def measured_on(network: nn.Module, levels: dict[str, Spoil], dataset: Folder, count: int) -> dict[str, dict[str, float]]:
    """`psnr_gain` of everything that images can be spoilt by, whole and of the size of the demo set's."""
    sides = {"whole": None, f"{SIDE}×{SIDE}": SIDE}
    return {
        f"{what}, {size}": psnr_gain(network, spoil, dataset, count, side)
        for what, spoil in levels.items()
        for size, side in sides.items()
    }


def psnr_gain(network: nn.Module, spoil: Spoil, dataset: Folder, count: int, side: int | None = None) -> dict[str, float]:
    """Mean PSNR in dB of the first `count` images, spoilt and restored; of their middle if a side in pixels is given."""
    generator = torch.Generator().manual_seed(0)
    before: list[float] = []
    after: list[float] = []
    for index in range(min(count, len(dataset))):
        clean = middle(dataset.image(index), side)[None].float() / 255
        spoilt = spoil(clean, generator)
        with torch.inference_mode():
            restored = network(spoilt).clamp(0, 1)
        for out, made in ((before, spoilt.clamp(0, 1)), (after, restored)):
            out.append(-10 * math.log10(float((made - clean).square().mean()) or 1e-10))
    return {"psnr_spoilt": round(float(np.mean(before)), 2), "psnr_restored": round(float(np.mean(after)), 2)}


def middle(image: torch.Tensor, side: int | None) -> torch.Tensor:
    """The middle of an image (3, H, W), at most so large; all of it if no side is given."""
    height, width = image.shape[1:]
    side = side or max(height, width)
    top, left = max(height - side, 0) // 2, max(width - side, 0) // 2
    return image[:, top : top + side, left : left + side]


def fit(
    name: str,
    dataset: Folder,
    held_out: Folder | None,
    schedule: Schedule,
    out: Path,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train a filter, or go on where a killed training stopped; writes weights and card, and returns the weight file.

    Raises:
        ValueError: where the images are smaller than the crop or the checkpoint is of another training.
    """
    torch.manual_seed(schedule.seed)
    network, victim = FILTERS[name](), ResNetIQA()
    start = load_weights(victim, weight_file("resnet-iqa"))
    victim.eval().requires_grad_(False)
    by_attack = name == "fcn-filter"

    def spoil(images: torch.Tensor, generator: torch.Generator, level: float | None = None) -> torch.Tensor:
        return attacked(images, generator, victim, level) if by_attack else noisy(images, generator, level)

    target = weight_file(name, folder=out)
    out.mkdir(parents=True, exist_ok=True)
    passes = 1 + INNER_STEPS if by_attack else 1
    facts = train(
        Restoration(network, spoil),
        _errors,
        passes,
        dataset,
        schedule,
        checkpoint=target.with_suffix(".checkpoint"),
        identity=json.dumps([name, dataset.fingerprint]),
        report=report,
    )
    network.eval()
    sizes = {f"attacked {k}/255": k / 255 for k in (2, 4, 8)} if by_attack else {f"sigma {s}": s for s in (0.01, 0.05, 0.12)}
    levels: dict[str, Spoil] = {what: partial(spoil, level=size) for what, size in sizes.items()}
    card = {
        "model": name,
        "defense": name,
        "recipe": {
            "spoilt_by": f"attacks on resnet-iqa {start[:12]}, at most {MOST_ATTACK:.4f}"
            if by_attack
            else f"Gaussian noise, sigma evenly from 0 to {MOST_NOISE}",
            "loss": "mean squared error",
        },
        "passes_an_image": passes,
        "schedule": asdict(schedule),
        "budget": facts,
        "start": "random weights",
        "data": {
            "name": "folder",
            "fingerprint": dataset.fingerprint,
            "training_images": len(dataset),
            "held_out_images": min(24, len(held_out)) if held_out else 0,
        },
        "measured": measured_on(network, levels, held_out, 24) if held_out else {},
        "licence": "MIT",
    }
    save_weights(network, target, card)
    target.with_suffix(".checkpoint").unlink(missing_ok=True)
    return target


def main(
    filter_: Annotated[str, typer.Option("--filter", help=" or ".join(FILTERS))],
    images: Annotated[Path, typer.Option(help="folder of clean images")],
    held_out: Annotated[Path | None, typer.Option(help="folder of others, to measure on")] = None,
    passes: Annotated[int, typer.Option(min=1, help="budget in forward+backward passes of one image")] = 64_000,
    batch: Annotated[int, typer.Option(min=2)] = 16,
    crop: Annotated[int, typer.Option(min=64)] = 96,
    learning_rate: Annotated[float, typer.Option(min=1e-8)] = 1e-3,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="folder for weights and card")] = ZOO,
) -> None:
    """Train a filter; the same command goes on where a killed one stopped."""
    if filter_ not in FILTERS:
        raise typer.BadParameter(f"{filter_!r} is none of {', '.join(FILTERS)}", param_hint="--filter")
    schedule = Schedule(passes, batch, crop, learning_rate, weight_decay=0.0, ema=0.99, seed=seed, workers=0)
    try:
        written = fit(
            filter_,
            Folder(images),
            Folder(held_out) if held_out else None,
            schedule,
            out,
            report=lambda progress: typer.echo(f"{progress.share:.1%} mean squared error {progress.loss:.6f}"),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(written)


if __name__ == "__main__":
    typer.run(main)
