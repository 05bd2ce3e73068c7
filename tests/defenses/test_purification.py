"""Purification: the surrogates of filters and their gradients, declarations of filters, and refusals."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch

from iqarena.bench.cells import expand
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import CannotRun, UserError
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.registry import DEFENSES
from iqarena.bench.suite import validated
from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.bridges.art import ArtPreprocessor
from iqarena.defenses.purification.base import Purification, PurifiedModel, straight_through
from iqarena.defenses.purification.denoiser import Denoiser, ResidualDenoiser
from iqarena.defenses.purification.fcn_filter import FCN, FCNFilter
from iqarena.defenses.purification.median_blur import median_of
from iqarena.defenses.purification.resize import Resize
from iqarena.defenses.purification.tv_denoise import differentiable_tv
from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.zoo import save_weights
from tests.support.analytic_models import MeanModel
from tests.support.attack_runs import random_pixels
from tests.support.filters import as_batch, purified

WITHOUT_WEIGHTS = (
    "art:FeatureSqueezing",
    "art:GaussianAugmentation",
    "art:JpegCompression",
    "art:SpatialSmoothing",
    "art:TotalVarMin",
    "bit-depth",
    "color-quantization",
    "flip",
    "gaussian-blur",
    "jpeg",
    "median-blur",
    "random-crop[size=16]",
    "random-noise",
    "random-rotate",
    "resize",
    "tv-denoise",
    "unsharp",
    "upscale",
    "wavelet-denoise",
)


class Wave(QualityModel):
    """A model whose score is a smooth function of every pixel, even in none of them, for images of any size."""

    info = ModelInfo("wave", min_size=8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        indices = torch.arange(images[0].numel(), dtype=images.dtype, device=images.device).view_as(images[0])
        return ((1.3 + torch.cos(indices)) * images * (1 + images)).mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random weights of the networks, so that they can be tested without the trained ones."""
    folder, files = tmp_path_factory.mktemp("weights"), {}
    torch.manual_seed(0)
    for name, network in (("denoiser", ResidualDenoiser()), ("fcn-filter", FCN())):
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.05)
        save_weights(network, folder / f"{name}.safetensors", {})
        files[name] = str(folder / f"{name}.safetensors")
    return files


@pytest.fixture(params=[*WITHOUT_WEIGHTS, "denoiser", "fcn-filter"])
def purification(request: pytest.FixtureRequest, weights: dict[str, str]) -> Purification:
    defense = DEFENSES.build(request.param)
    if request.param in weights:
        defense = replace(defense, weights=weights[request.param])
    assert isinstance(defense, Purification)
    return defense


# --- surrogates


IMAGES = ("natural", "odd", "grey", "black", "white", "gradient")


@pytest.mark.parametrize("image", IMAGES)
def test_the_surrogate_has_a_finite_gradient_that_is_not_zero(purification, image, natural, images):
    images = as_batch(natural) if image == "natural" else images[image][None].float() / 255
    model = purification.surrogate(Wave())
    leaf = images.clone().requires_grad_()
    torch.manual_seed(0)
    (gradient,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert torch.isfinite(gradient).all()
    if image == "grey" and "jpeg" in purification.name.lower():
        return  # every coefficient is on a level there, where the stand-in's x³ is flat; a random start leaves such places
    # a random crop of 16×16 leaves out 97 % of 96×96; a median takes one pixel of its window
    assert float((gradient != 0).float().mean()) > 0.02
    assert torch.isfinite(model(images)).all()


# difference of quality with the same random draw; all but jpeg equal the deployed filter up to float32 rounding
APART = {"jpeg": 0.005}


@pytest.mark.parametrize("image", ["natural", "odd"])
def test_the_surrogate_is_close_to_the_deployed_filter(purification, image, natural, images):
    images = as_batch(natural) if image == "natural" else images[image][None].float() / 255
    scores = []
    for model in (purification.protect(MeanModel()), purification.surrogate(MeanModel())):
        torch.manual_seed(3)
        assert isinstance(model, PurifiedModel)
        with torch.no_grad():
            scores.append(model.purify(images))
    assert float((scores[0].mean() - scores[1].mean()).abs()) <= APART.get(purification.name, 1e-6)
    if purification.name not in APART:
        torch.testing.assert_close(scores[0], scores[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "spec", ["flip", "gaussian-blur", "unsharp", "resize", "upscale", "wavelet-denoise", "random-crop[size=5]"]
)
def test_exact_gradients_are_those_of_finite_differences(spec):
    images = 0.2 + 0.6 * torch.rand(1, 3, 10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    purify = DEFENSES.build(spec).purifier()

    def seeded(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return purify(x)

    assert torch.autograd.gradcheck(seeded, (images.requires_grad_(),), eps=1e-6, atol=1e-5)


def test_the_gradient_of_the_tv_iteration_is_that_of_finite_differences():
    images = torch.rand(1, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: differentiable_tv(x, 0.1, 4), (images,), eps=1e-7, atol=1e-4)


def test_the_gradient_of_a_median_goes_to_the_pixel_that_is_it():
    images = random_pixels(1, 7, 7).float().requires_grad_()
    (gradient,) = torch.autograd.grad(median_of(images, 7)[0, 1, 3, 3], images)
    (index,) = gradient.nonzero()
    window = images.detach()[0, 1]
    assert window[index[2], index[3]] == window.flatten().median()


def test_straight_through_gives_the_filters_values_and_the_identitys_gradient():
    leaf = random_pixels(1).float().requires_grad_()
    out = straight_through(torch.round)(leaf / 255)
    assert torch.equal(out, (leaf / 255).round())
    assert torch.autograd.grad(out.sum(), leaf)[0].eq(1 / 255).all()


# --- declarations and parameters


def test_a_filter_takes_each_image_by_itself_and_changes_nothing_in_place(purification):
    images = random_pixels(3, 24, 26).float() / 255
    kept = images.clone()
    purify = purification.purifier()
    with torch.inference_mode():
        together = purify(images)
        assert together.shape[:2] == (3, 3)
        assert ((together >= 0) & (together <= 1)).all()
        if not purification.stochastic:
            # other libraries' convolutions may sum in another order in a batch
            torch.testing.assert_close(purify(images[1:2]), together[1:2], atol=1e-6, rtol=0)
    assert torch.equal(images, kept)


def test_stochastic_filters_say_so_and_follow_torchs_seed(purification):
    images = random_pixels(1, 32, 32).float() / 255
    purify = purification.purifier()
    with torch.inference_mode():
        torch.manual_seed(0)
        first, second = purify(images), purify(images)
        torch.manual_seed(0)
        assert torch.equal(purify(images), first)
    assert torch.equal(first, second) != purification.stochastic


def test_a_filter_that_says_that_pixels_stay_keeps_the_size(purification):
    images = random_pixels(1, 33, 47).float() / 255
    assert purification.moves_pixels or purification.purifier()(images).shape == images.shape


@pytest.mark.parametrize(
    "spec",
    [
        "color-quantization[levels=1]",
        "bit-depth[bits=0]",
        "bit-depth[bits=9]",
        "random-rotate[degrees=0]",
        "random-crop[size=0]",
        "resize[scale=0]",
        "resize[scale=1.5]",
        "upscale[scale=-1]",
        "upscale[scale=.nan]",
        "gaussian-blur[kernel=4]",
        "median-blur[kernel=1]",
        "unsharp[kernel=-3]",
        "random-noise[sigma=0]",
        "random-noise[sigma=.inf]",
        "tv-denoise[weight=0]",
        "wavelet-denoise[sigma=0]",
        "diffpure[steps=0]",
        "art:SpatialSmoothing[window_size=4]",
        "art:FeatureSqueezing[bit_depth=0]",
        "art:JpegCompression[quality=101]",
        "art:TotalVarMin[clip_values=1]",
        "art:TotalVarMin[nonsense=1]",
        "art:Cutout",
        "art:Nonsense",
    ],
)
def test_parameters_without_sense_are_one_line(spec):
    with pytest.raises(UserError) as error:
        DEFENSES.build(spec)
    assert "\n" not in str(error.value)


def test_every_preprocessor_of_the_toolbox_is_on_offer_or_refused_with_a_reason():
    toolbox = importlib.import_module("art.defences.preprocessor")
    base = toolbox.Preprocessor
    classes = {name for name, cls in vars(toolbox).items() if isinstance(cls, type) and issubclass(cls, base)} - {
        base.__name__
    }
    offered = {name.partition(":")[2] for name in DEFENSES.names() if name.startswith("art:")}
    refused = ArtPreprocessor.refused()
    assert classes == offered | set(refused)
    assert not offered & set(refused)


# --- sizes


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("inner", [7, 64])
def test_the_least_side_of_a_resized_image_is_just_enough(scale, inner):
    resize = Resize(scale)
    least = resize.least(inner)
    sides = [resize.purifier()(torch.zeros(1, 3, side, side)).shape[2] for side in (least, max(least - 1, 1))]
    assert sides[0] >= inner
    assert sides[1] < inner


def test_too_small_images_are_refused_with_the_size_that_is_needed():
    assert DEFENSES.build("random-crop[size=24]").protect(Wave()).info.min_size == 24
    assert DEFENSES.build("resize").protect(Wave()).info.min_size == 16
    assert DEFENSES.build("gaussian-blur[kernel=21]").protect(Wave()).info.min_size == 11
    with pytest.raises(DoesNotApply, match="leaves 4×4, and 8×8 is needed"):
        DEFENSES.build("random-crop[size=4]").protect(Wave())
    with pytest.raises(ValueError, match="16×16 is smaller than the crop"):
        purified("random-crop[size=17]", torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("defense", "reason"),
    [
        ("random-crop[size=256]", r"resnet-iqa behind random-crop\[size=256\] needs 256×256"),
        ("random-crop[size=32]", "leaves 32×32"),
    ],
)
def test_a_crop_that_does_not_fit_skips_the_cell_with_the_reason(defense, reason):
    evaluator = Evaluator(Demo(), 1, 8)
    (cell,) = expand(
        validated({"models": ["resnet-iqa"], "defenses": [defense], "attacks": ["random-noise"], "settings": ["oblivious"]})
    )
    with pytest.raises(CannotRun, match=reason):
        evaluator.ids.check(cell)


def test_the_weights_of_a_filter_are_part_of_the_deployed_models(weights):
    model = MeanModel()
    hashes = {Denoiser(weights["denoiser"]).protect(model).info.weights_sha256, model.info.weights_sha256}
    hashes.add(FCNFilter(weights["fcn-filter"]).protect(model).info.weights_sha256)
    assert len(hashes) == 3
