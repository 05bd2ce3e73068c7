"""Training of the network filters: ``python -m iqarena.defenses.purification.train_denoiser --filter NAME --images FOLDER``.

Both filters learn to restore the clean image (mean squared error): `denoiser` from Gaussian noise whose standard deviation
is drawn uniformly from 0 to 0.15 per image, `fcn-filter` from attacked images, generated on the undefended model during
training, with a ball of up to 8/255 and a direction, up or down, drawn per image. The loop is that of the training
defenses: it resumes from its checkpoint, and its budget is counted in passes. Train `fcn-filter` on crops as large as the
images to be filtered: its InstanceNorm makes its behaviour depend on the image size.
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
"""Side of the images of the demo set; filters are measured on centre crops of this size as well as on whole images."""
FILTERS: dict[str, type[nn.Module]] = {"denoiser": ResidualDenoiser, "fcn-filter": FCN}
Degrade = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Maps clean images (N, 3, H, W) in [0, 1] to degraded ones."""


class Folder:
    """All JPEG and PNG files of a folder and its subfolders, sorted by path, without labels."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not self.files:
            raise ValueError(f"{folder} holds no JPEG or PNG file")

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all files."""
        return sha256("".join(sha256(file.read_bytes()).hexdigest() for file in self.files).encode()).hexdigest()

    def image(self, index: int) -> torch.Tensor:
        """Return an image, (3, H, W) uint8."""
        with Image.open(self.files[index]) as opened:
            return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)

    def part(self, index: int, choose: Choose) -> torch.Tensor:
        """Return a part of an image, (3, height, width) uint8."""
        with Image.open(self.files[index]) as opened:
            top, left, height, width = choose(opened.height, opened.width)
            crop = opened.convert("RGB").crop((left, top, left + width, top + height))
            return torch.from_numpy(np.array(crop)).permute(2, 0, 1)

    def mos(self, index: int) -> float:
        """Return NaN, as there are no labels."""
        return math.nan


class Restoration(QualityModel):
    """A filter during training: the score of a clean image is the mean squared error of its restored degraded version."""

    info = ModelInfo("restoration", min_size=1, higher_is_better=False)

    def __init__(self, network: nn.Module, degrade: Degrade) -> None:
        super().__init__()
        self.network, self.degrade = network, degrade
        self.generator = torch.Generator()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # seeded from torch's global stream, whose state is restored when training resumes
        self.generator.manual_seed(int(torch.randint(2**62, ())))
        with torch.autocast(images.device.type, enabled=False):
            degraded = self.degrade(images, self.generator)
        restored: torch.Tensor = self.network(degraded)
        return (restored.float() - images).square().mean(dim=(1, 2, 3))


def _errors(model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> Iterator[torch.Tensor]:
    yield model(images).mean()


def noisy(images: torch.Tensor, generator: torch.Generator, sigma: float | None = None) -> torch.Tensor:
    """Add Gaussian noise, not clipped; the standard deviation is by default drawn uniformly up to `MOST_NOISE` per image."""
    if sigma is None:
        level = MOST_NOISE * torch.rand((len(images), 1, 1, 1), generator=generator)
    else:
        level = torch.full((len(images), 1, 1, 1), sigma)
    return images + (level * torch.randn(images.shape, generator=generator)).to(images)


def attacked(
    images: torch.Tensor, generator: torch.Generator, model: QualityModel, epsilon: float | None = None
) -> torch.Tensor:
    """Attack a model by sign steps from a random start; the ball is by default drawn up to `MOST_ATTACK` per image."""
    if epsilon is None:
        size = MOST_ATTACK * torch.rand((len(images), 1, 1, 1), generator=generator).to(images)
    else:
        size = torch.full((len(images), 1, 1, 1), epsilon).to(images)
    sign = (2 * torch.randint(2, (len(images),), generator=generator) - 1).to(images)
    shift = size * (2 * torch.rand(images.shape, generator=generator).to(images) - 1)
    with torch.enable_grad():
        for _ in range(INNER_STEPS):
            leaf = (images + shift).clamp(0, 1).detach().requires_grad_()
            (gradient,) = torch.autograd.grad((sign * model.quality(leaf)).sum(), leaf)
            shift = (shift + 1.25 * size / INNER_STEPS * gradient.sign()).clamp(-size, size)
    return (images + shift).clamp(0, 1).detach()


def measure_gains(
    network: nn.Module, levels: dict[str, Degrade], dataset: Folder, count: int
) -> dict[str, dict[str, float]]:
    """Measure `psnr_gain` at each level of degradation, on whole images and on crops of the size of the demo set."""
    sides = {"whole": None, f"{SIDE}×{SIDE}": SIDE}
    return {
        f"{level}, {size}": psnr_gain(network, degrade, dataset, count, side)
        for level, degrade in levels.items()
        for size, side in sides.items()
    }


def psnr_gain(
    network: nn.Module, degrade: Degrade, dataset: Folder, count: int, side: int | None = None
) -> dict[str, float]:
    """Compute the mean PSNR in dB of the first `count` images, degraded and restored; on centre crops if a side is given."""
    generator = torch.Generator().manual_seed(0)
    before: list[float] = []
    after: list[float] = []
    for index in range(min(count, len(dataset))):
        clean = centre_crop(dataset.image(index), side)[None].float() / 255
        degraded = degrade(clean, generator)
        with torch.inference_mode():
            restored = network(degraded).clamp(0, 1)
        for psnrs, image in ((before, degraded.clamp(0, 1)), (after, restored)):
            psnrs.append(-10 * math.log10(float((image - clean).square().mean()) or 1e-10))
    return {"psnr_spoilt": round(float(np.mean(before)), 2), "psnr_restored": round(float(np.mean(after)), 2)}


def centre_crop(image: torch.Tensor, side: int | None) -> torch.Tensor:
    """Return the centre crop of an image (3, H, W), of at most `side` pixels per side; the whole image if it is None."""
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
    """Train a filter, resuming from a checkpoint if there is one; writes weights and card, and returns the weight file.

    Raises:
        ValueError: if the images are smaller than the crop or the checkpoint belongs to another training.
    """
    torch.manual_seed(schedule.seed)
    network, victim = FILTERS[name](), ResNetIQA()
    start = load_weights(victim, weight_file("resnet-iqa"))
    victim.eval().requires_grad_(False)
    by_attack = name == "fcn-filter"

    def degrade(images: torch.Tensor, generator: torch.Generator, level: float | None = None) -> torch.Tensor:
        return attacked(images, generator, victim, level) if by_attack else noisy(images, generator, level)

    target = weight_file(name, folder=out)
    out.mkdir(parents=True, exist_ok=True)
    passes = 1 + INNER_STEPS if by_attack else 1
    facts = train(
        Restoration(network, degrade),
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
    levels: dict[str, Degrade] = {label: partial(degrade, level=size) for label, size in sizes.items()}
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
        "measured": measure_gains(network, levels, held_out, 24) if held_out else {},
        "licence": "MIT",
    }
    save_weights(network, target, card)
    target.with_suffix(".checkpoint").unlink(missing_ok=True)
    return target


def main(
    filter_: Annotated[str, typer.Option("--filter", help=" or ".join(FILTERS))],
    images: Annotated[Path, typer.Option(help="folder of clean images")],
    held_out: Annotated[Path | None, typer.Option(help="folder of other images to measure on")] = None,
    passes: Annotated[int, typer.Option(min=1, help="budget in forward+backward passes of one image")] = 64_000,
    batch: Annotated[int, typer.Option(min=2)] = 16,
    crop: Annotated[int, typer.Option(min=64)] = 96,
    learning_rate: Annotated[float, typer.Option(min=1e-8)] = 1e-3,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="folder for weights and card")] = ZOO,
) -> None:
    """Train a filter; the same command resumes an interrupted training."""
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
