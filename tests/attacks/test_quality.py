"""Quality-aware attacks: their constraints, against other libraries and closed forms, and their use of the whole ball."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity

from iqarena.attacks.ioi import IOI, variation, without_strongest
from iqarena.attacks.korhonen import Korhonen, activity
from iqarena.attacks.madc import MADC, orthogonal_to
from iqarena.attacks.similarity import luma, ssim, ssim_and_grad
from iqarena.attacks.ssah import SSAH, low_band
from iqarena.attacks.threat import Threat
from iqarena.attacks.zhang_dists import ZhangDISTS
from iqarena.attacks.zhang_ssim import ZhangSSIM
from iqarena.bench.evaluation.judge import inside_threat
from tests.attacks.test_dists import small_weights
from tests.support.analytic_models import LinearModel, QuadraticModel
from tests.support.attack_runs import SMALL_THREATS, craft, random_pixels


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("dists") / "small.safetensors"
    safetensors.torch.save_file(small_weights(), path)
    return str(path)


@pytest.fixture
def attacks(weights_file):
    return [Korhonen(), SSAH(), MADC(), ZhangSSIM(), ZhangDISTS(weights=weights_file), IOI()]


@pytest.fixture
def crop(natural):
    """Return a natural image (1, 3, 96, 96) uint8."""
    return torch.from_numpy(natural).permute(2, 0, 1)[None].contiguous()


def doubles(count, height, width, seed=0):
    return torch.rand(count, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gain(attack, model, clean, kind, threat):
    """Return the gain of the stored images, (N,), and their shift in levels."""
    _, stored, _ = craft(attack, model, clean, kind, threat)
    before, after = (model(pixels.float() / 255).detach() for pixels in (clean, stored.pixels))
    return (after - before if kind == "raise" else before - after), stored.pixels.double() - clean.double()


# --- SSIM


@pytest.mark.parametrize("size", [(33, 47), (11, 11), (96, 96)])
def test_ssim_is_scikit_images(size):
    x, y = doubles(2, *size, seed=1), doubles(2, *size, seed=2)
    y[1] = (x[1] + 0.1 * (y[1] - 0.5)).clamp(0, 1)
    for a, b, result in zip(x, y, ssim(x, y), strict=True):
        lumas = [luma(image[None])[0, 0].numpy() for image in (a, b)]
        expected = structural_similarity(
            *lumas, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(result) == pytest.approx(expected, abs=1e-9)


def test_gradient_of_ssim_is_that_of_finite_differences():
    clean, x, way = doubles(2, 14, 17, seed=3), doubles(2, 14, 17, seed=4), doubles(2, 14, 17, seed=5) - 0.5
    similar, gradient = ssim_and_grad(x, clean)
    assert torch.equal(similar, ssim(x, clean))
    step = 1e-5
    slope = (ssim(x + step * way, clean) - ssim(x - step * way, clean)) / (2 * step)
    # a central difference is off by step²·f‴/6 ≈ 1e-8 and by rounding, 1e-16/1e-5
    assert torch.allclose((gradient * way).sum(dim=(1, 2, 3)), slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_gradient_of_ssim_is_finite_on_flat_images(level):
    flat = torch.full((1, 3, 16, 16), level)
    for x in (flat, (flat + 0.01).clamp(0, 1), (flat - 0.01).clamp(0, 1), torch.rand(1, 3, 16, 16)):
        assert torch.isfinite(ssim_and_grad(x, flat)[1]).all()
        assert torch.isfinite(ssim_and_grad(flat, x)[1]).all()


# --- masks and bands


@pytest.mark.parametrize("size", [(33, 47), (3, 20), (96, 64)])
def test_activity_is_the_dilated_square_of_scipys_sobel_gradient(size):
    images = doubles(2, *size, seed=6)
    footprint = np.ones((5, 5), dtype=bool)
    footprint[[0, 0, -1, -1], [0, -1, 0, -1]] = False
    for image, result in zip(images, activity(images), strict=True):
        brightness = luma(image[None])[0, 0].numpy()
        edges = ndimage.sobel(brightness, axis=0) ** 2 + ndimage.sobel(brightness, axis=1) ** 2
        inner = np.zeros_like(edges)
        inner[1:-1, 1:-1] = edges[1:-1, 1:-1]
        expected = ndimage.grey_dilation(inner / inner.max(), footprint=footprint, mode="constant", cval=0.0)
        np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-12)


def test_activity_of_a_flat_image_is_one_everywhere():
    assert torch.equal(activity(torch.full((1, 3, 9, 12), 0.3)), torch.ones(1, 1, 9, 12))


def test_korhonen_leaves_flat_areas_alone():
    clean = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    clean[..., 20:] = 160  # one upright edge, active within three pixels on either side
    _, shift = gain(Korhonen(), LinearModel(32, 32), clean, "raise", Threat("linf", 8 / 255))
    assert (shift[..., :16] == 0).all()
    assert (shift[..., 24:] == 0).all()
    assert (shift[..., 1:-1, 19:21].abs() > 0).double().mean() > 0.9


def test_low_band_is_that_of_a_haar_transform():
    images = doubles(1, 8, 12, seed=7)

    def averages(size):
        """Return the orthonormal low-pass half of a one-level Haar transform."""
        return np.kron(np.eye(size // 2), np.array([[1.0, 1.0]])) / math.sqrt(2)

    rows, columns = averages(8), averages(12)
    for channel, result in zip(images[0].numpy(), low_band(images)[0].numpy(), strict=True):
        np.testing.assert_allclose(result, rows.T @ (rows @ channel @ columns.T) @ columns, atol=1e-12)


@pytest.mark.parametrize("size", [(33, 47), (1, 1), (2, 5)])
def test_low_band_of_odd_sizes_has_the_size_and_is_taken_once(size):
    images = doubles(1, *size, seed=8)
    assert low_band(images).shape == images.shape
    assert torch.allclose(low_band(low_band(images)), low_band(images), atol=1e-12)


def test_variation_is_local_deviation_over_mean():
    images = doubles(1, 20, 31, seed=9)
    ratios = []
    for channel in images[0].numpy():
        mean = ndimage.uniform_filter(channel, 3, mode="nearest")
        deviation = np.sqrt(ndimage.uniform_filter(channel**2, 3, mode="nearest") - mean**2)
        ratios.append(deviation / np.maximum(mean, 1 / 255))
    ratio = np.stack(ratios) / np.max(ratios)
    np.testing.assert_allclose(variation(images)[0].numpy(), np.sqrt(np.where(ratio < 0.01, 0, ratio)), atol=1e-7)


def test_the_strongest_frequencies_are_taken_out_and_the_others_left():
    images, shift = doubles(1, 16, 22, seed=10), doubles(1, 16, 22, seed=11) - 0.5
    rest = np.fft.rfft2(without_strongest(shift, images, 0.25)[0].numpy())
    for channel in range(3):
        strength = np.abs(np.fft.rfft2(images[0, channel].numpy())).ravel()
        order, before = strength.argsort(), np.fft.rfft2(shift[0, channel].numpy()).ravel()
        strongest, others = order[-round(0.25 * strength.size) :], order[: -round(0.25 * strength.size)]
        assert np.abs(rest[channel].ravel()[strongest]).max() < 1e-9
        np.testing.assert_allclose(rest[channel].ravel()[others], before[others], atol=1e-9)
    assert torch.equal(without_strongest(shift, images, 0.0), shift)


# --- closed forms


def test_without_its_constraint_ssah_is_adam():
    model, threat = QuadraticModel(0.4), Threat("linf", 12 / 255)
    clean = random_pixels(2, low=60, high=80)
    attack = SSAH(low=1.0, steps=6, step_size=0.2, softness=0.5)
    _, shift = gain(attack, model, clean, "raise", threat)
    for image, moved in zip(clean, shift, strict=True):
        start = image[None].float() / 255
        at = torch.nn.Parameter(start.clone())
        adam = torch.optim.Adam([at], lr=0.2 * 12 / 255, eps=0.5)
        for _ in range(6):
            leaf = ((at.detach() * 255).round() / 255).requires_grad_()
            (gradient,) = torch.autograd.grad(-model(leaf).sum(), leaf)
            at.grad = gradient / gradient.abs().mean()
            adam.step()
        # the maximum, 102, lies further than these steps reach: the last iterate is the best and no value meets the ball
        expected = (at.detach() * 255).round() - image[None].float()
        assert expected.abs().max() < 12
        # a value that falls on the middle between two levels may be rounded either way
        assert ((moved - expected[0]).abs() > 0).double().mean() < 0.005


def test_zhang_without_a_distance_is_ssah_without_a_constraint(weights_file):
    model, clean = LinearModel(), random_pixels(2)
    plain = craft(SSAH(low=1.0), model, clean, "lower", SMALL_THREATS["linf"])[1].pixels
    for attack in (ZhangSSIM(similarity=0.0), ZhangDISTS(weights=weights_file, similarity=0.0)):
        assert torch.equal(craft(attack, model, clean, "lower", SMALL_THREATS["linf"])[1].pixels, plain)


@pytest.mark.parametrize(
    "attack", [SSAH(low=1.0, steps=20, softness=1e4), MADC(steps=20, softness=1e4)], ids=["adam", "madc"]
)
def test_l2_gain_is_the_norm_of_the_weights_times_the_radius(attack):
    model, radius = LinearModel(), 2.0
    clean = random_pixels(3, low=90, high=166)
    quality_gain, shift = gain(attack, model, clean, "lower", Threat("l2", radius))
    weights = model.weight.detach()
    # with a large softness Adam's step is the gradient. Rounding is next to nothing along the weights, but where it
    # lengthens a shift past the radius the shift is shortened, by 2 %
    assert (quality_gain > 0.97 * float(weights.norm()) * radius).all()
    assert (quality_gain < 1.001 * float(weights.norm()) * radius).all()
    assert (shift.flatten(1).norm(dim=1) / 255 <= radius * (1 + 1e-9)).all()


def test_ssah_finds_the_best_shift_without_a_low_band_in_the_l2_ball():
    model, radius = LinearModel(), 2.0
    clean = random_pixels(3, low=90, high=166)
    quality_gain, shift = gain(SSAH(steps=20, softness=1e4), model, clean, "lower", Threat("l2", radius))
    high = (model.weight - low_band(model.weight[None])[0]).detach()
    assert (quality_gain > 0.97 * float(high.norm()) * radius).all()  # as above
    assert (quality_gain < 1.001 * float(high.norm()) * radius).all()
    assert low_band(shift).abs().max() <= 0.5 + 1e-9, "rounding moves no value, and so no block's mean, by more"


def test_ssah_comes_near_the_best_shift_without_a_low_band_in_the_linf_ball():
    model, levels = LinearModel(), 16
    quality_gain, shift = gain(SSAH(), model, random_pixels(3, low=40, high=216), "lower", Threat("linf", levels / 255))
    # of four weights w₁ ≥ w₂ ≥ w₃ ≥ w₄ and four shifts in ±ε that add up to 0, the best are −ε, −ε, ε, ε
    blocks = model.weight.detach().view(3, 8, 2, 8, 2).permute(0, 1, 3, 2, 4).reshape(-1, 4).sort(dim=1).values
    best = float((blocks[:, 2:].sum(dim=1) - blocks[:, :2].sum(dim=1)).sum()) * levels / 255
    assert (quality_gain > 0.95 * best).all()
    # clipping after the low band was taken out puts some of it back
    assert (low_band(shift).square().mean(dim=(1, 2, 3)).sqrt() < 0.15 * levels).all()
    free, other = gain(SSAH(low=1.0), model, random_pixels(3, low=40, high=216), "lower", Threat("linf", levels / 255))
    assert (free > quality_gain).all()
    assert (low_band(other).square().mean(dim=(1, 2, 3)).sqrt() > 0.4 * levels).all()


def test_madc_comes_near_the_best_shift_on_its_level_in_the_linf_ball():
    model, levels, level = LinearModel(), 16, 0.5
    quality_gain, shift = gain(
        MADC(level=level, steps=20, softness=1e4),
        model,
        random_pixels(3, low=40, high=216),
        "lower",
        Threat("linf", levels / 255),
    )
    assert (shift.square().mean(dim=(1, 2, 3)).sqrt() <= level * levels + 0.5).all()
    # the best shift with a given mean square inside the ball is clip(k·w), k such that it has that mean square
    weights, low, high = model.weight.detach().double(), 0.0, 1e6
    for _ in range(60):
        k = (low + high) / 2
        inside = float((k * weights).clamp(-1, 1).square().mean()) < level**2
        low, high = (k, high) if inside else (low, k)
    best = float((weights * (low * weights).clamp(-1, 1)).sum()) * levels / 255
    assert (quality_gain > 0.97 * best).all()


def test_madc_moves_orthogonally_to_the_gradient_of_the_distance():
    images = random_pixels(2, 20, 24).float() / 255
    attacked = (images + 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    step = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    for norm in ("linf", "l2", "ssim"):
        move = MADC().move(step, attacked, images, SMALL_THREATS[norm]).double()
        move = move / move.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        x, clean = attacked.double(), images.double()

        def distance(at, clean=clean, norm=norm):
            return ((at - clean) ** 2).mean(dim=(1, 2, 3)) if norm != "ssim" else 1 - ssim(at, clean)

        slope = (distance(x + 1e-4 * move) - distance(x - 1e-4 * move)) / 2e-4
        other = step.double() / step.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        unprojected = (distance(x + 1e-4 * other) - distance(x - 1e-4 * other)) / 2e-4
        # steps are float32: what is left of the slope is about 1e-7 of the steepest
        assert (slope.abs() < 1e-4 * unprojected.abs()).all(), norm


def test_the_part_along_a_normal_is_taken_out_and_nothing_else():
    direction, normal = doubles(2, 5, 6, seed=12), doubles(2, 5, 6, seed=13)
    rest = orthogonal_to(direction, normal)
    assert ((rest * normal).sum(dim=(1, 2, 3)).abs() < 1e-9).all()
    assert torch.allclose(orthogonal_to(direction + 3 * normal, normal), rest, atol=1e-9)
    assert torch.equal(orthogonal_to(direction, torch.zeros_like(normal)), direction)


def test_a_larger_weight_keeps_more_similarity(crop):
    model, similar, gains = LinearModel(96, 96), [], []
    for weight in (0.0, 3.0, 100.0):
        quality_gain, shift = gain(ZhangSSIM(similarity=weight), model, crop, "raise", Threat("linf", 8 / 255))
        similar.append(float(ssim((crop.double() + shift) / 255, crop.double() / 255)))
        gains.append(float(quality_gain))
    assert similar[0] < similar[1] < similar[2]
    assert gains[0] > gains[1] > gains[2] > 0


# --- the ball and the budget


def test_the_ssim_ball_is_kept_and_used(attacks, crop):
    threat, model = Threat("ssim", 0.02), LinearModel(96, 96)
    for attack in attacks:
        attacked, stored, _ = craft(attack, model, crop, "raise", threat)
        assert not stored.left_ball.any(), attack.name
        assert inside_threat(stored.pixels, crop, threat).all(), attack.name
        assert float(threat.distance(attacked, crop.float() / 255)) > 0.95 * threat.size, attack.name


def test_the_l2_ball_is_used(attacks, crop):
    threat, model = Threat("l2", 3.0), LinearModel(96, 96)
    for attack in attacks:
        _, shift = gain(attack, model, crop, "raise", threat)
        # 3 in 27,648 values is 4.6 levels a value; rounding those to whole levels shortens by up to 2 % steps. Most of ioi's
        # shift is in few busy places, and what is below half a level elsewhere is lost
        assert float(shift.norm()) / 255 > (0.95 if attack.name == "ioi" else 0.97) * threat.size, attack.name


def test_flat_images_are_attacked_too(attacks):
    model = LinearModel(24, 20)
    for level in (0, 128, 255):
        clean = torch.full((1, 3, 24, 20), level, dtype=torch.uint8)
        for attack in attacks:
            quality_gain, _ = gain(attack, model, clean, "raise", SMALL_THREATS["linf"])
            # ioi keeps to where the image varies, as its authors do
            assert (float(quality_gain) > 0) == (attack.name != "ioi"), f"{attack.name} {level}"


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_query_limits_are_kept(attacks, limit):
    for attack in attacks:
        for norm in attack.norms:
            threat = replace(SMALL_THREATS[norm], queries=limit)
            _, stored, target = craft(attack, LinearModel(), random_pixels(2), "lower", threat)
            assert int(target.counts.forwards.max()) <= limit, attack.name
            assert not stored.left_ball.any(), attack.name


def test_passes_are_those_counted(attacks):
    for attack in attacks:
        _, _, target = craft(attack, LinearModel(), random_pixels(2), "lower", SMALL_THREATS["linf"])
        counted = (target.counts.forwards - 1, target.counts.backwards)  # the clean quality is asked for before
        assert [tuple(passes.tolist()) for passes in counted] == [(passes,) * 2 for passes in attack.passes], attack.name


@pytest.mark.parametrize(
    ("attack", "parameters"),
    [
        (Korhonen, {"steps": 0}), (Korhonen, {"step_size": 0.0}), (Korhonen, {"softness": -1.0}), (SSAH, {"low": 1.5}),
        (MADC, {"level": 0.0}), (MADC, {"level": 1.5}), (ZhangSSIM, {"similarity": -1.0}),
        (ZhangDISTS, {"similarity": math.nan}), (IOI, {"looks": 0}), (IOI, {"share": 1.0}),
    ],
)  # fmt: skip
def test_parameters_without_sense_are_refused(attack, parameters):
    with pytest.raises(ValueError, match=f"^{attack.name}: "):
        attack(**parameters)
