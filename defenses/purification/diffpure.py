"""`diffpure`: noise added by the forward process of a diffusion model, removed by the reverse one (Nie et al., ICML 2022).

With x₀ = 2·image − 1 at the size of the network: x_t = √ᾱ_t·x₀ + √(1 − ᾱ_t)·n, then t steps of DDPM's ancestral sampler, and
back to the size of the image; both resizings are bilinear. The network is a ``UNet2DModel`` with a ``DDPMScheduler`` of the
package diffusers, in a folder as that package saves pipelines. Up to `THROUGH` steps, the surrogate is exact, with
gradients through all steps; beyond that, memory does not allow it, and the gradient is that of the identity.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.purification.base import Purification, Purifier, clipped, straight_through
from iqarena.models.zoo import WeightsError, sha256_of

THROUGH = 10


class Diffusion(nn.Module):
    """The diffusion process up to step `steps` and back; draws from torch's global stream."""

    def __init__(self, unet: Any, scheduler: Any, steps: int, sha256: str) -> None:
        super().__init__()
        self.unet, self.scheduler, self.steps, self.weights_sha256 = (
            unet.eval().requires_grad_(False),
            scheduler,
            steps,
            sha256,
        )
        self.scheduler.set_timesteps(self.scheduler.config.num_train_timesteps)  # all training steps, without skipping

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = self.unet.config.sample_size
        small = functional.interpolate(
            2 * images - 1, (size, size) if isinstance(size, int) else tuple(size), mode="bilinear", align_corners=False
        )
        kept = self.scheduler.alphas_cumprod[self.steps - 1].to(small)
        sample = kept.sqrt() * small + (1 - kept).sqrt() * torch.randn(small.shape).to(small)
        for step in reversed(range(self.steps)):
            predicted = self.unet(sample, step).sample
            sample = self.scheduler.step(predicted, step, sample).prev_sample
        back = functional.interpolate(sample, images.shape[2:], mode="bilinear", align_corners=False)
        return clipped((back + 1) / 2)


@dataclass(frozen=True)
class DiffPure(Purification):
    """Diffusion purification.

    Attributes:
        weights: a folder with a UNet2DModel and a DDPMScheduler, in subfolders unet and scheduler or directly in it.
        steps: diffusion steps, forward and back; at most as many as the network was trained for.
    """

    name: ClassVar[str] = "diffpure"
    stochastic: ClassVar[bool] = True
    paper: ClassVar[str] = "https://arxiv.org/abs/2205.07460"

    weights: str = ""
    steps: int = 5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"{self.name}: steps {self.steps} is below 1")
        if self.steps > THROUGH:
            object.__setattr__(self, "surrogate_kind", "identity")

    def purifier(self) -> Purifier:
        return self._loaded()

    def stand_in(self) -> Purifier:
        diffusion = self._loaded()
        if self.steps <= THROUGH:
            return diffusion
        surrogate = straight_through(diffusion)
        surrogate.weights_sha256 = diffusion.weights_sha256  # type: ignore[attr-defined]
        return surrogate

    def _loaded(self) -> Diffusion:
        if not self.weights:
            raise DoesNotApply(
                f"{self.name} comes without weights; give {self.name}[weights=FOLDER], a folder with a UNet2DModel and a "
                "DDPMScheduler as the package diffusers saves them"
            )
        try:
            diffusers = importlib.import_module("diffusers")
            network, sampler = diffusers.UNet2DModel, diffusers.DDPMScheduler  # resolved lazily by the package
        except (ImportError, RuntimeError) as error:
            message = " ".join(str(error).split())
            raise DoesNotApply(
                f"{self.name} needs the package diffusers: pip install 'iqarena[diffusion]' (importing it: {message})"
            ) from None
        folder = Path(self.weights)
        unet_folder, scheduler_folder = (
            folder / part if (folder / part).is_dir() else folder for part in ("unet", "scheduler")
        )
        try:
            unet = network.from_pretrained(unet_folder, local_files_only=True, use_safetensors=True)
            scheduler = sampler.from_pretrained(scheduler_folder, local_files_only=True)
        except Exception as error:  # the package raises many types
            message = " ".join(str(error).split())
            raise WeightsError(f"{folder}: no UNet2DModel and DDPMScheduler in safetensors ({message})") from None
        if unet.config.in_channels != 3:
            raise WeightsError(f"{folder}: the network takes {unet.config.in_channels} channels, not the 3 of an image")
        if self.steps > scheduler.config.num_train_timesteps:
            most = scheduler.config.num_train_timesteps
            raise DoesNotApply(f"{self.name}: {self.steps} steps are more than the {most} that the network was trained for")
        return Diffusion(unet, scheduler, self.steps, sha256_of(unet_folder / "diffusion_pytorch_model.safetensors"))
