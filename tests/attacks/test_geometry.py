"""Warps, colour curves and the two controls: identities, derivatives, other libraries and closed forms."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional

from iqarena.attacks.adv_cf import AdvCF
from iqarena.attacks.jpeg_recompress import JPEGRecompress
from iqarena.attacks.random_sign import RandomSign
from iqarena.attacks.stadv import StAdv, roughness_gradient, warped
from iqarena.attacks.threat import Threat
from iqarena.models.base import QualityModel
from tests.support.analytic_models import LinearModel, MeanModel
from tests.support.attack_runs import craft, random_pixels

TWO = Threat("linf", 2 / 255)
BOTH = [StAdv(), AdvCF()]


def doubles(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def levels(stored, clean):
    return stored.pixels.int() - clean.int()


# --- the warp


@pytest.mark.parametrize(("height", "width"), [(16, 20), (33, 47), (1, 9), (9, 1), (1, 1)])
def test_a_flow_of_zero_is_the_identity(height, width):
    images = doubles(2, 3, height, width).float()
    assert torch.equal(warped(images, torch.zeros(2, 2, height, width))[0], images)


def test_warp_is_that_of_scipy_and_of_torch():
    images, flow = doubles(2, 3, 12, 15), 8 * doubles(2, 2, 12, 15, seed=1) - 4  # well past the border
    ours = warped(images, flow)[0]
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(15.0), indexing="ij")
    for image in range(2):
        places = np.stack([(rows + flow[image, 0]).numpy(), (columns + flow[image, 1]).numpy()])
        for channel in range(3):
            theirs = ndimage.map_coordinates(images[image, channel].numpy(), places, order=1, mode="nearest")
            np.testing.assert_allclose(ours[image, channel].numpy(), theirs, atol=1e-12)
    grid = torch.stack([2 * (columns + flow[:, 1]) / 14 - 1, 2 * (rows + flow[:, 0]) / 11 - 1], dim=3)
    theirs = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_derivatives_of_the_warp_are_finite_differences():
    images, step = doubles(1, 3, 9, 11), 1e-4
    # fractions of a pixel from 0.1 to 0.9, away from the kinks at whole places, and whole parts of either sign
    flow = (
        0.1
        + 0.8 * doubles(1, 2, 9, 11, seed=1)
        + torch.randint(-2, 2, (1, 2, 9, 11), generator=torch.Generator().manual_seed(2))
    )
    rows, columns = torch.arange(9).view(1, -1, 1), torch.arange(11).view(1, 1, -1)
    inside = (rows + flow[:, 0] > 0) & (rows + flow[:, 0] < 8) & (columns + flow[:, 1] > 0) & (columns + flow[:, 1] < 10)
    assert inside.float().mean() > 0.5
    for axis, derivative in enumerate(warped(images, flow)[1:]):
        nudge = torch.zeros_like(flow)
        nudge[:, axis] = step
        measured = (warped(images, flow + nudge)[0] - warped(images, flow - nudge)[0]) / (2 * step)
        # bilinear sampling is linear along an axis between whole places: the difference is exact up to rounding
        assert torch.allclose(derivative * inside, measured * inside, atol=1e-10)


def test_roughness_gradient_is_that_of_autograd():
    flow = doubles(2, 2, 7, 9).requires_grad_()
    down = functional.pad(flow[:, :, 1:] - flow[:, :, :-1], (0, 0, 0, 1))
    across = functional.pad(flow[:, :, :, 1:] - flow[:, :, :, :-1], (0, 1))
    roughness = (down.square() + across.square()).sum(dim=1).add(1e-8).sqrt().sum()
    (expected,) = torch.autograd.grad(roughness, flow)
    assert torch.allclose(roughness_gradient(flow.detach()), expected, atol=1e-10)


def test_smoothness_makes_the_flow_smoother(natural):
    clean = torch.from_numpy(natural.copy()).permute(2, 0, 1)[None].float() / 255
    gradient = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    rough = 0.2 * torch.randn(1, 2, 96, 96, generator=torch.Generator().manual_seed(1))

    def roughness(flow):
        return float(flow.diff(dim=2).abs().mean() + flow.diff(dim=3).abs().mean())

    plain, smooth = (
        rough + 0.05 * StAdv(smoothness=weight).direction(rough, clean, gradient, TWO) for weight in (0.0, 100.0)
    )
    assert roughness(smooth) < roughness(plain)


def test_stadv_finds_the_shift_that_a_linear_model_wants():
    """With a smooth image's own derivative as weights, shifting the whole image is the l2 optimum in closed form."""
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    waves = torch.stack([torch.sin(columns / 5 + 2 * c) * torch.cos(rows / 7 + c) for c in range(3)])
    clean = (127.5 + 100 * waves).round().to(torch.uint8)[None]
    model = LinearModel(48, 48)
    derivative = (clean.float() / 255).diff(dim=3, append=clean[..., -1:].float() / 255)[0]
    model.weight.data.copy_(10 * derivative / derivative.abs().sum())
    before = model(clean.float() / 255).detach()
    radius = 3.0  # 9 levels a value on average, so that rounding is little beside it
    for kind, direction in (("raise", 1), ("lower", -1)):
        _, stored, _ = craft(StAdv(smoothness=0.0), model, clean, kind, Threat("l2", radius))
        gain = direction * (model(stored.pixels.float() / 255).detach() - before)
        ideal = radius * float(model.weight.detach().norm())
        # the loss to curvature: a shift of s pixels turns a wave of 1/5 a pixel by s/5, and s is about 0.6 here
        assert 0.9 * ideal < float(gain) <= ideal * (1 + 1e-4)


# --- the colour curve


def test_a_curve_without_offsets_is_the_identity():
    images = doubles(2, 3, 20, 24).float()
    attack = AdvCF()
    assert torch.equal(attack.applied(attack.identity(images), images), images)


@pytest.mark.parametrize("pieces", [1, 7, 64])
def test_curve_is_that_of_numpy(pieces):
    attack, images = AdvCF(pieces=pieces), doubles(2, 3, 9, 10)
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    offsets = attack.allowed(0.3 * doubles(2, 3, pieces + 1, seed=1) - 0.15)
    knots = np.linspace(0, 1, pieces + 1)
    ours = attack.applied(offsets, images)
    for image in range(2):
        for channel in range(3):
            curve = knots + offsets[image, channel].numpy()
            assert (np.diff(curve) >= -1e-12).all(), "a colour curve never falls"
            theirs = np.interp(images[image, channel].numpy(), knots, curve).clip(0, 1)
            np.testing.assert_allclose(ours[image, channel].numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize(("kind", "direction"), [("raise", 1), ("lower", -1)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_curve_reaches_the_brightest_and_the_darkest_image_in_the_ball(kind, direction, norm):
    clean = random_pixels(2, 24, 20, low=10, high=246)
    # in both balls the best is to move every value by two levels; the hair is for the length in float32
    threat = TWO if norm == "linf" else Threat("l2", 2 / 255 * math.sqrt(3 * 24 * 20) * (1 + 1e-6))
    _, stored, _ = craft(AdvCF(), MeanModel(), clean, kind, threat)
    assert torch.equal(stored.pixels, (clean.int() + 2 * direction).to(torch.uint8))


# --- both


@pytest.mark.parametrize("attack", BOTH, ids=["stadv", "adv-cf"])
@pytest.mark.parametrize("threat", [Threat("ssim", 0.01), Threat("ssim", 0.1), Threat("l2", 2.0)], ids=str)
def test_the_ball_is_used(attack, threat, natural):
    clean = torch.from_numpy(natural.copy()).permute(2, 0, 1)[None]
    model: QualityModel = MeanModel()  # for a curve: the brighter, the better
    if isinstance(attack, StAdv):  # for a warp: the image smoothed and moved sideways, by as much as the ball allows
        model = LinearModel(96, 96)
        smooth = functional.avg_pool2d(clean.float(), 9, stride=1, padding=4)
        model.weight.data.copy_(smooth.roll(4, dims=3)[0] - smooth.roll(-4, dims=3)[0])
    _, stored, _ = craft(attack, model, clean, "raise", threat)
    used = float(threat.distance(stored.pixels.float() / 255, clean.float() / 255)) / threat.size
    assert 0.7 < used <= 1  # a warp wraps a little before the edge: more of it is not always better


@pytest.mark.parametrize("attack", BOTH, ids=["stadv", "adv-cf"])
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_query_limits_are_kept(attack, limit):
    clean = random_pixels(2)
    _, stored, target = craft(attack, LinearModel(), clean, "lower", Threat("linf", 2 / 255, limit))
    assert int(target.counts.forwards.max()) <= limit
    assert not stored.left_ball.any()
    # the clean quality costs one, a step two at least
    assert bool(levels(stored, clean).any()) == (limit == 7)


@pytest.mark.parametrize("attack", [StAdv(steps=3), AdvCF(steps=3)], ids=["stadv", "adv-cf"])
def test_passes_are_what_is_asked(attack):
    _, _, target = craft(attack, LinearModel(), random_pixels(2), "lower", TWO)
    assert target.counts.forwards.tolist() == [1 + attack.passes[0]] * 2
    assert target.counts.backwards.tolist() == [attack.passes[1]] * 2


@pytest.mark.parametrize(
    ("attack", "parameters"),
    [
        (StAdv, {"steps": 0}),
        (StAdv, {"smoothness": -1}),
        (StAdv, {"longest": 0}),
        (AdvCF, {"step_size": 0}),
        (AdvCF, {"pieces": 0}),
    ],
)
def test_parameters_without_sense_are_refused(attack, parameters):
    with pytest.raises(ValueError, match=f"{attack.name}: .* must be"):
        attack(**parameters)


# --- controls


def test_random_sign_fills_the_linf_ball():
    clean = random_pixels(3, low=10, high=246)
    _, stored, _ = craft(RandomSign(), MeanModel(), clean, "raise", TWO)
    shift = levels(stored, clean)
    assert torch.equal(shift.abs(), torch.full_like(shift, 2))
    assert abs(float(shift.double().mean())) < 0.3  # 2304 signs: 2·√(1/2304) = 0.04 is one standard deviation


@pytest.mark.parametrize("share", [0.001, 0.4, 0.75, 1.0, 2.6], ids=str)
def test_random_sign_fills_the_l2_ball_to_less_than_a_step_of_one_value(share):
    """`share` is the average change that a value may have, in levels; below one, most values stay."""
    clean = random_pixels(3, 24, 20, low=10, high=246)
    budget = share**2 * 3 * 24 * 20
    threat = Threat("l2", math.sqrt(budget) / 255 * (1 + 1e-6))
    _, stored, _ = craft(RandomSign(), MeanModel(), clean, "raise", threat)
    squares = levels(stored, clean).square().flatten(1).sum(dim=1)
    assert (squares <= budget * (1 + 1e-5)).all()
    assert (squares > budget - (2 * math.floor(share) + 1)).all()


def test_random_sign_draws_each_image_for_itself():
    clean = random_pixels(1, low=10, high=246).repeat(2, 1, 1, 1)
    _, stored, _ = craft(RandomSign(), MeanModel(), clean, "raise", TWO)
    assert not torch.equal(stored.pixels[0], stored.pixels[1])


@pytest.mark.parametrize("quality", [10, 90])
def test_jpeg_recompress_is_pillows_image_cut_to_the_ball(quality, natural):
    stream = io.BytesIO()
    Image.fromarray(natural).save(stream, "JPEG", quality=quality)
    theirs = torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1)[None]
    clean = torch.from_numpy(natural.copy()).permute(2, 0, 1)[None]
    attack = JPEGRecompress(quality=quality)
    _, whole, target = craft(attack, MeanModel(), clean, "raise", Threat("linf", 1.0))
    assert torch.equal(whole.pixels, theirs)
    assert target.counts.forwards.tolist() == [0]
    _, cut, _ = craft(attack, MeanModel(), clean, "raise", TWO)
    assert torch.equal(levels(cut, clean), (theirs.int() - clean.int()).clamp(-2, 2))


def test_jpeg_quality_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="quality must be"):
        JPEGRecompress(quality=0)
