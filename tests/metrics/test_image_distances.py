"""Perceptual distances of stored images against other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from iqarena.bench.metrics.image_distances import MS_SSIM_SIDE, distances, luma_ssim, similarities


def noisy(side: int, amount: int, width: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a natural image (3, side, width) uint8 under uniform noise, and the image itself."""
    from skimage import data

    clean = torch.from_numpy(np.array(data.astronaut())).permute(2, 0, 1)[:, :side, : width or side].contiguous()
    noise = torch.randint(-amount, amount + 1, clean.shape, generator=torch.Generator().manual_seed(0))
    return (clean.int() + noise).clamp(0, 255).to(torch.uint8), clean


@pytest.mark.parametrize(("height", "width"), [(11, 11), (64, 48), (192, 192), (177, 201)])
def test_ssim_is_scikit_images(height, width):
    attacked, clean = noisy(height, 20, width)
    # both are float64 sums of some 40,000 numbers of size one
    assert similarities(attacked, clean)[0] == pytest.approx(luma_ssim(attacked, clean), abs=1e-9)


@pytest.mark.parametrize("amount", [2, 20, 120])
def test_ms_ssim_is_piqs(amount):
    try:
        import piq
    except Exception as error:  # ImportError, or RuntimeError of a torchvision that does not fit torch
        pytest.skip(f"piq cannot be imported: {error}")
    attacked, clean = noisy(192, amount)
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    planes = [torch.einsum("c,chw->hw", luma, image.double() / 255)[None, None] for image in (attacked, clean)]
    assert similarities(attacked, clean)[1] == pytest.approx(float(piq.multi_scale_ssim(*planes)), abs=1e-9)


def test_ms_ssim_of_a_stored_pair_is_the_one_that_piq_gave():
    # piq 0.8.0, multi_scale_ssim of the lumas in float64
    assert similarities(*noisy(192, 20))[1] == pytest.approx(0.9440209560508117, abs=1e-9)


def test_the_same_image_has_similarity_one_and_no_other_distance():
    _, clean = noisy(192, 1)
    row = distances(clean[None], clean[None]).iloc[0]
    assert (row.ssim, row.ms_ssim) == pytest.approx((1, 1))
    assert (row.linf, row.l2, row.l0) == (0, 0, 0)
    assert math.isnan(row.psnr)


def test_more_noise_is_less_similar():
    results = [similarities(*noisy(192, amount)) for amount in (1, 5, 30, 120)]
    assert results == sorted(results, reverse=True)
    assert [multi for _, multi in results] == sorted((multi for _, multi in results), reverse=True)


def test_what_is_too_small_for_the_window_is_missing():
    assert math.isnan(similarities(*noisy(MS_SSIM_SIDE - 1, 5))[1])
    assert not math.isnan(similarities(*noisy(MS_SSIM_SIDE, 5))[1])
    assert all(math.isnan(value) for value in similarities(*noisy(10, 5)))


def test_a_negative_of_an_image_is_as_unlike_as_can_be():
    _, clean = noisy(192, 1)
    assert similarities(255 - clean, clean)[1] == 0
