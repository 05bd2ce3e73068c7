"""The threat model, and the verification of stored images."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iqarena.attacks.threat import Ball, Threat
from iqarena.bench.evaluation.judge import inside_threat, quantize
from tests.support.attack_runs import random_pixels

# 0.00784 and 0.01 lie between grid values, 0.007843 and 0.0039215 a hair below 2/255 and 1/255
SIZES = [1 / 255, 2 / 255, 8 / 255, 0.00784, 0.01, 0.007843, 0.0039215, 0.5, 1.0]
L2_SIZES = [0.01, 0.1, 0.5, 1.0, 3.0, 20.0]

sizes_linf = st.one_of(st.sampled_from(SIZES), st.floats(1e-3, 1))
sizes_l2 = st.one_of(st.sampled_from(L2_SIZES), st.floats(1e-3, 20))
threats = st.one_of(
    sizes_linf.map(lambda size: Threat("linf", size)),
    sizes_l2.map(lambda size: Threat("l2", size)),
    st.tuples(st.sampled_from(["l0", "patch"]), st.floats(1 / 34, 1)).map(lambda pair: Threat(*pair)),
)


@st.composite
def attacked_images(draw):
    """Clean pixels, a threat, and floats around the clean image, from inside the ball to far outside of it and [0, 1]."""
    threat = draw(threats)
    clean = random_pixels(2, 5, 7, seed=draw(st.integers(0, 10**6)))
    if draw(st.booleans()):
        clean = torch.where(clean < 90, 0, torch.where(clean > 170, 255, clean)).to(torch.uint8)
    reach = draw(st.sampled_from([0.2, 0.9, 1.0, 1.00005, 1.5, 40.0]))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 10**6))))
    if draw(st.booleans()):
        noise = noise.sign()
    scale = {"linf": threat.size, "l2": threat.size / float(noise[0].norm())}.get(threat.norm, 0.1)
    images = clean.float() / 255 + noise * (reach * scale)
    if draw(st.booleans()):
        images = (images * 255).round() / 255
    return clean, images, threat


@given(attacked_images())
def test_stored_pixels_are_always_inside_the_threat_model(case):
    clean, images, threat = case
    stored = quantize(images, clean, threat)
    assert stored.pixels.dtype == torch.uint8
    assert stored.pixels.shape == clean.shape
    assert inside_threat(stored.pixels, clean, threat).all()


@given(attacked_images())
def test_a_ball_is_its_threat_model_around_the_images_that_it_was_made_for(case):
    clean, images, threat = case
    clean = clean.float() / 255
    ball = Ball(threat, clean)
    inside = ball.project(images.clone())
    assert torch.equal(inside, threat.project(images, clean))
    assert torch.equal(ball.snap(inside), threat.snap(inside, clean))
    assert threat.holds(inside, clean).all()
    mask = torch.arange(len(clean)) % 2 == 1
    assert torch.equal(ball.part(mask).project(images[mask]), inside[mask])


@pytest.mark.parametrize(
    "threat", [Threat("linf", 0.007843), Threat("l2", 1.99995 * math.sqrt(12) / 255)], ids=["linf", "l2"]
)
def test_a_size_a_hair_below_whole_levels_does_not_turn_every_attack_into_a_violation(threat):
    # 0.007843 is what people write for 2/255 = 0.0078431…; whether one or two levels fit, the judge must agree with itself
    clean = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    start = clean.float() / 255
    images = threat.project(start + 2 / 255, start)
    for attacked in (images, threat.snap(images, start)):
        stored = quantize(attacked, clean, threat)
        assert not stored.left_ball.any()
        assert inside_threat(stored.pixels, clean, threat).all()


@given(attacked_images())
def test_storing_rounds_each_pixel_toward_the_clean_image(case):
    clean, images, threat = case
    start = clean.float() / 255
    projected = threat.project(images, start).double() * 255
    stored = quantize(images, clean, threat).pixels.double()
    moved, wanted = stored - clean.double(), projected - clean.double()
    # float32 pixels near 1 are known to 6e-8, 1.5e-5 levels; the slack of 1e-4 levels in `quantize` is what allows for that
    assert (moved.abs() <= wanted.abs() + 2e-4).all()
    assert (moved * wanted >= 0).all()
    # no more than the fraction of a level is given away, but for a hair where only that keeps the sum of squares inside
    assert (wanted.abs() - moved.abs() < 1.03).all()


@given(attacked_images())
def test_projection_is_inside_and_leaves_what_is_inside_alone(case):
    clean, images, threat = case
    start = clean.float() / 255
    projected = threat.project(images, start)
    assert threat.holds(projected, start).all()
    # float32: a sum and a difference of numbers up to 1 each round by 6e-8
    torch.testing.assert_close(threat.project(projected, start), projected, atol=3e-7, rtol=0)


@given(attacked_images())
def test_snapped_images_are_on_the_grid_and_survive_storing_unchanged(case):
    clean, images, threat = case
    start = clean.float() / 255
    snapped = threat.snap(threat.project(images, start), start)
    levels = snapped.double() * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    assert threat.holds(snapped, start).all()
    stored = quantize(snapped, clean, threat)
    assert not stored.left_ball.any()
    assert torch.equal(stored.pixels.double(), levels.round())


@pytest.mark.parametrize(("size", "levels"), [(1 / 255, 1), (2 / 255, 2), (0.00784, 1), (0.01, 2), (8 / 255, 8)])
def test_a_push_to_the_edge_moves_by_the_whole_levels_that_fit(size, levels):
    clean = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    threat = Threat("linf", size)
    start = clean.float() / 255
    for direction in (-1, 1):
        pushed = start + direction * size
        assert (quantize(pushed, clean, threat).pixels.int() - 100 == direction * levels).all()
        assert ((threat.snap(pushed, start) * 255).round().int() - 100 == direction * levels).all()


def test_linf_projection_is_a_clamp_of_every_value():
    clean = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    threat = Threat("linf", 0.1)
    out = threat.project(torch.tensor([-0.3, 0.55, 0.2]).view(1, 3, 1, 1), clean)
    torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 0.55, 0.9]))


def test_l2_projection_scales_the_shift_of_each_image_by_itself():
    clean = torch.full((2, 3, 1, 1), 0.5)
    shift = torch.tensor([[0.3, 0.4, 0.0], [0.0, 0.03, 0.04]]).view(2, 3, 1, 1)
    out = Threat("l2", 0.1).project(clean + shift, clean) - clean
    torch.testing.assert_close(out.flatten(1), torch.tensor([[0.06, 0.08, 0.0], [0.0, 0.03, 0.04]]), atol=1e-6, rtol=0)


def test_distance_is_the_norm_of_the_threat():
    clean = torch.zeros(1, 3, 1, 1)
    moved = torch.tensor([0.3, -0.4, 0.0]).view(1, 3, 1, 1)
    assert float(Threat("linf", 0.1).distance(moved, clean)) == pytest.approx(0.4)
    assert float(Threat("l2", 0.1).distance(moved, clean)) == pytest.approx(0.5)


def test_l0_keeps_the_pixels_that_changed_most():
    clean = torch.full((1, 3, 2, 4), 0.5)
    shift = torch.zeros_like(clean)
    shift[0, 0] = torch.tensor([[0.1, 0.0, 0.2, 0.05], [0.3, 0.0, 0.0, 0.01]])
    shift[0, 1, 1, 3] = 0.4  # with its other channel the largest change of all
    threat = Threat("l0", 3 / 8)
    kept = (threat.project(clean + shift, clean) - clean)[0]
    assert (kept != 0).any(dim=0).tolist() == [[False, False, True, False], [True, False, False, True]]
    assert float(threat.distance(clean + shift, clean)) == pytest.approx(5 / 8)


def test_a_patch_is_the_square_with_most_of_the_change():
    clean = torch.full((2, 3, 6, 7), 0.5)
    shift = torch.zeros_like(clean)
    shift[0, :, 1:3, 4:6] = 0.2
    shift[0, 0, 5, 0] = 0.3
    shift[1, 2, 0, 0], shift[1, 2, 1, 1] = 0.1, 0.1
    threat = Threat("patch", 4 / 42)  # two by two
    kept = threat.project(clean + shift, clean) - clean
    assert kept[0, 0, 5, 0] == 0
    torch.testing.assert_close(kept[0, :, 1:3, 4:6], shift[0, :, 1:3, 4:6])
    torch.testing.assert_close(kept[1], shift[1])
    # around the first image's changes, rows 1 to 5 and columns 0 to 5, only a square of six by six fits
    torch.testing.assert_close(threat.distance(clean + shift, clean), torch.tensor([36 / 42, 4 / 42]))


@given(st.floats(0.001, 0.5), st.integers(0, 10**6))
def test_ssim_uses_the_room_that_there_is_and_no_more(size, seed):
    clean = random_pixels(2, 16, 19, seed=seed)
    start = clean.float() / 255
    images = start + 0.6 * torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))
    threat = Threat("ssim", size)
    inside = threat.project(images, start)
    assert threat.holds(inside, start).all()
    snapped = threat.snap(inside, start)
    stored = quantize(snapped, clean, threat)
    assert torch.equal(stored.pixels.float(), (snapped * 255).round())
    assert not stored.left_ball.any()
    # scikit-image judges what our own SSIM has let through
    assert inside_threat(quantize(images, clean, threat).pixels, clean, threat).all()
    # a share of the shift is found to 2⁻¹²; a shift that fits as it is stays as it is
    full = threat.distance(images.clamp(0, 1), start).clamp(max=size)
    assert (threat.distance(inside, start) > 0.97 * full - 1e-3).all()


def test_verification_counts_pixels_squares_and_structure():
    clean = random_pixels(1, 16, 16).repeat(3, 1, 1, 1)
    pixels = clean.clone()
    pixels[1, 0, 3, 4] ^= 1
    pixels[2, 0, 3, 4] ^= 1
    pixels[2, 2, 5, 5] ^= 1
    assert inside_threat(pixels, clean, Threat("l0", 1 / 256)).tolist() == [True, True, False]
    assert inside_threat(pixels, clean, Threat("patch", 1 / 256)).tolist() == [True, True, False]
    assert inside_threat(pixels, clean, Threat("patch", 9 / 256)).tolist() == [True, True, True]
    assert inside_threat(255 - clean, clean, Threat("ssim", 0.5)).tolist() == [False] * 3


def test_a_threat_that_allows_nothing_says_so():
    assert "no whole pixel" in Threat("l0", 0.001).refusal(16, 16)
    assert "no whole pixel" in Threat("patch", 0.001).refusal(16, 16)
    assert "11×11" in Threat("ssim", 0.1).refusal(10, 40)
    assert not Threat("l0", 0.004).refusal(16, 16)
    assert "query limit of 0" in Threat("linf", 0.1, queries=0).refusal(16, 16)
    assert not Threat("linf", 0.1, queries=1).refusal(16, 16)


def test_an_attack_that_leaves_the_ball_is_reported_and_brought_back():
    clean = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    images = clean.float() / 255
    images[1, 0, 0, 0] += 3 / 255
    stored = quantize(images, clean, Threat("linf", 2 / 255))
    assert stored.left_ball.tolist() == [False, True]
    assert stored.not_finite.tolist() == [False, False]
    assert int(stored.pixels[1, 0, 0, 0]) == 102


def test_an_attack_that_leaves_the_pixel_range_is_reported_and_brought_back():
    clean = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    stored = quantize(clean.float() / 255 + 1 / 255, clean, Threat("linf", 2 / 255))
    assert stored.left_ball.tolist() == [True]
    assert (stored.pixels == 255).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_value_that_is_not_finite_is_reported_and_the_clean_image_stored(norm, bad):
    clean = random_pixels(2, 4, 4)
    images = clean.float() / 255
    images[0, 1, 2, 3] = bad
    stored = quantize(images, clean, Threat(norm, 2 / 255))
    assert stored.not_finite.tolist() == [True, False]
    assert torch.equal(stored.pixels, clean)
    assert not stored.left_ball.any()


@pytest.mark.parametrize(("norm", "within", "beyond"), [("linf", 2, 3), ("l2", 2, 3)])
def test_verification_judges_stored_pixels_alone(norm, within, beyond):
    clean = torch.full((3, 3, 4, 4), 100, dtype=torch.uint8)
    pixels = clean.clone()
    pixels[1, 0, 0, 0] += within
    pixels[2, 0, 0, 0] += beyond
    assert inside_threat(pixels, clean, Threat(norm, 2 / 255)).tolist() == [True, True, False]


def test_verification_does_not_wrap_around_at_the_ends_of_the_range():
    clean = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    pixels = torch.tensor([0, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert not inside_threat(pixels, clean, Threat("linf", 2 / 255)).any()


def test_l2_adds_up_over_all_values():
    clean = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    pixels = clean + 1  # twelve values moved by one level: √12 levels
    assert inside_threat(pixels, clean, Threat("l2", math.sqrt(12) / 255)).all()
    assert not inside_threat(pixels, clean, Threat("l2", 0.999 * math.sqrt(12) / 255)).any()


@pytest.mark.parametrize("size", [0.0, -0.1, 1.1, 2.0, math.nan, math.inf])
def test_linf_size_outside_its_range_is_refused(size):
    with pytest.raises(ValueError, match="outside"):
        Threat("linf", size)


@pytest.mark.parametrize("size", [0.0, -1.0, math.nan, math.inf])
def test_l2_size_that_is_not_positive_and_finite_is_refused(size):
    with pytest.raises(ValueError, match="eps"):
        Threat("l2", size)


def test_l2_size_may_be_above_one():
    assert Threat("l2", 3.0).size == 3.0


def test_unknown_norm_and_negative_query_limit_are_refused():
    with pytest.raises(ValueError, match="norm 'l7' is not one of linf, l2"):
        Threat("l7", 0.1)
    with pytest.raises(ValueError, match="query limit of -1"):
        Threat("linf", 0.1, queries=-1)
