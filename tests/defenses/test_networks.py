"""Purification networks: layers, weights, training; diffusion against the paper's sampler."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from iqarena.bench.registry import DEFENSES
from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.purification import trained
from iqarena.defenses.purification.base import Network, PurifiedModel
from iqarena.defenses.purification.denoiser import Denoiser, ResidualDenoiser
from iqarena.defenses.purification.diffpure import THROUGH, DiffPure
from iqarena.defenses.purification.fcn_filter import FCN, FCNFilter
from iqarena.defenses.purification.train_denoiser import Folder, fit, noisy
from iqarena.defenses.training.loop import Schedule
from iqarena.models.zoo import WeightsError, card_of, load_weights
from tests.support.analytic_models import MeanModel
from tests.support.attack_runs import random_pixels

# --- networks


@pytest.mark.parametrize("defense", [Denoiser, FCNFilter])
def test_a_filter_without_weights_says_how_to_make_them(defense, monkeypatch, tmp_path):
    monkeypatch.setattr(trained, "weight_file", lambda name: tmp_path / f"{name}.safetensors")
    with pytest.raises(DoesNotApply, match=rf"train_denoiser --filter {defense.name}"):
        defense().protect(MeanModel())
    with pytest.raises(WeightsError, match="cannot be read"):
        defense(weights=str(tmp_path / "gone.safetensors")).protect(MeanModel())


def test_the_fcn_filter_has_the_published_layers():
    kinds = [type(layer).__name__ for layer in FCN().layers]
    assert kinds == ["Conv2d", "LeakyReLU", "Conv2d", "InstanceNorm2d", "LeakyReLU", "Conv2d", "Tanh"]
    shapes = [tuple(weight.shape) for weight in FCN().parameters() if weight.ndim == 4]
    assert shapes == [(64, 3, 3, 3), (16, 64, 3, 3), (3, 16, 3, 3)]


def test_an_untrained_denoiser_is_the_identity_on_any_size():
    images = random_pixels(1, 33, 47).float() / 255
    torch.testing.assert_close(Network(ResidualDenoiser(), "")(images), images)
    assert sum(weight.numel() for weight in ResidualDenoiser().parameters()) < 300_000


def test_the_shipped_denoiser_takes_noise_off(natural):
    if not trained.weight_file("denoiser").is_file():
        pytest.skip("no weights are shipped")
    images = torch.from_numpy(natural.transpose(2, 0, 1).copy())[None].float() / 255
    model = DEFENSES.build("denoiser").protect(MeanModel())
    assert isinstance(model, PurifiedModel)
    for sigma, gain in ((0.05, 2.0), (0.12, 4.0)):  # in dB; its card says what it gains on images of the training's kind
        spoilt = noisy(images, torch.Generator().manual_seed(0), sigma)
        with torch.inference_mode():
            restored = model.purify(spoilt)
        errors = [float((output - images).square().mean()) for output in (spoilt.clamp(0, 1), restored)]
        assert 10 * math.log10(errors[0] / errors[1]) > gain


@pytest.mark.parametrize("name", ["denoiser", "fcn-filter"])
def test_training_writes_weights_with_a_card_and_lowers_the_error(name, natural, tmp_path):
    (tmp_path / "images").mkdir()
    for k in range(3):
        Image.fromarray(np.rot90(natural, k)).save(tmp_path / "images" / f"{k}.png")
    images, losses = Folder(tmp_path / "images"), []
    for passes in (8, 16):  # of the same images in the same order
        schedule = Schedule(passes=passes, batch=2, crop=48, learning_rate=3e-3, weight_decay=0.0, ema=0.5, workers=0)
        reports: list[float] = []
        out = tmp_path / str(passes)
        file = fit(name, images, images, schedule, out, lambda progress, reports=reports: reports.append(progress.loss))
        losses.append(reports[-1])
        network = {"denoiser": ResidualDenoiser, "fcn-filter": FCN}[name]()
        assert load_weights(network, file) == card_of(file)["sha256"]
        assert {"data", "schedule", "budget", "measured", "licence"} <= set(card_of(file))
        assert card_of(file)["budget"]["passes"] == passes
        assert not list(out.glob("*.checkpoint"))
    assert losses[1] < 0.9 * losses[0]


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no JPEG or PNG"):
        Folder(tmp_path)


# --- diffusion


class Unets:
    """Folders of tiny saved diffusion models."""

    layouts: ClassVar[tuple[str, ...]] = ("subfolders", "one folder")


@pytest.fixture(scope="module", params=Unets.layouts)
def diffusion(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained UNet2DModel with its scheduler, saved as diffusers saves pipelines, or both in one folder."""
    diffusers = pytest.importorskip("diffusers")
    try:
        assert diffusers.UNet2DModel  # imported only now
    except RuntimeError as error:  # beside a torchvision that does not fit torch
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("diffusion")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    split = request.param == "subfolders"
    unet.save_pretrained(folder / "unet" if split else folder)
    diffusers.DDPMScheduler(num_train_timesteps=50).save_pretrained(folder / "scheduler" if split else folder)
    return folder


def test_diffpure_is_the_papers_sampler(diffusion):
    """Compare with the closed form of DDPM's ancestral steps (Ho, Jain, Abbeel 2020, eq. 7 and 11) in float64."""
    steps = 4
    model = DiffPure(weights=str(diffusion), steps=steps).protect(MeanModel())
    assert isinstance(model, PurifiedModel)
    images = random_pixels(2, 24, 20).float() / 255
    torch.manual_seed(5)
    with torch.inference_mode():
        result = model.purify(images).clone()
    betas = torch.linspace(1e-4, 0.02, 50, dtype=torch.float64)
    kept = torch.cumprod(1 - betas, dim=0)
    unet: torch.nn.Module = model.purify.unet  # type: ignore[union-attr,assignment]
    torch.manual_seed(5)
    start = torch.nn.functional.interpolate(2 * images - 1, (16, 16), mode="bilinear", align_corners=False).double()
    x = kept[steps - 1].sqrt() * start + (1 - kept[steps - 1]).sqrt() * torch.randn(start.shape)
    with torch.inference_mode():
        for t in reversed(range(steps)):
            noise = unet(x.float(), t).sample.double()
            before = kept[t - 1] if t else torch.ones((), dtype=torch.float64)
            x0 = ((x - (1 - kept[t]).sqrt() * noise) / kept[t].sqrt()).clamp(-1, 1)
            mean = (before.sqrt() * betas[t] * x0 + (1 - betas[t]).sqrt() * (1 - before) * x) / (1 - kept[t])
            variance = (1 - before) / (1 - kept[t]) * betas[t]
            x = mean + (variance.sqrt() * torch.randn(start.shape) if t else 0)
    expected = torch.nn.functional.interpolate(x, (24, 20), mode="bilinear", align_corners=False).add(1).div(2).clamp(0, 1)
    torch.testing.assert_close(result.double(), expected, atol=1e-4, rtol=0)  # its coefficients and samples are float32


@pytest.mark.parametrize(("steps", "kind"), [(2, "exact"), (THROUGH + 1, "identity")])
def test_the_gradient_of_diffpure_is_exact_while_steps_are_few(steps, kind, diffusion):
    defense = DiffPure(weights=str(diffusion), steps=steps)
    assert defense.surrogate_kind == kind
    model = defense.surrogate(MeanModel())
    leaf = random_pixels(1, 24, 20).float().div(255).requires_grad_()
    torch.manual_seed(1)
    score = model(leaf)
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.5
    if kind == "identity":
        torch.testing.assert_close(gradient, torch.full_like(gradient, 1 / leaf.numel()))
    torch.manual_seed(1)
    with torch.no_grad():
        torch.testing.assert_close(defense.protect(MeanModel())(leaf.detach()), score.detach())


def test_the_weights_of_diffpure_are_part_of_the_deployed_models(diffusion):
    defense = DiffPure(weights=str(diffusion), steps=THROUGH + 1)
    hashes = [defense.protect(MeanModel()).info.weights_sha256, defense.surrogate(MeanModel()).info.weights_sha256]
    assert hashes[0] == hashes[1] != ""


def test_diffpure_asks_for_weights_and_says_what_is_wrong_with_them(diffusion, tmp_path):
    with pytest.raises(DoesNotApply, match=r"diffpure\[weights=FOLDER\]"):
        DiffPure().protect(MeanModel())
    with pytest.raises(WeightsError, match="no UNet2DModel") as error:
        DiffPure(weights=str(tmp_path)).protect(MeanModel())
    assert "\n" not in str(error.value)
    with pytest.raises(DoesNotApply, match="51 steps are more than the 50"):
        DiffPure(weights=str(diffusion), steps=51).protect(MeanModel())


def test_diffpure_without_its_package_says_what_to_install(monkeypatch, tmp_path):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("iqarena.defenses.purification.diffpure.importlib.import_module", missing)
    with pytest.raises(DoesNotApply, match=r"pip install 'iqarena\[diffusion\]'"):
        DiffPure(weights=str(tmp_path)).protect(MeanModel())
