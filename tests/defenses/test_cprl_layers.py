"""The layers of CPRL (our reconstruction): soft rank and masks, against SciPy, NumPy and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from iqarena.defenses.cprl.activation import RandomMask, SoftRankActivation, soft_rank
from iqarena.defenses.cprl.sort_mask import SortMask

# --- the soft rank

distinct = st.lists(st.integers(-50, 50), min_size=2, max_size=12, unique=True).map(
    lambda v: torch.tensor(v, dtype=torch.float64)
)


any_values = st.lists(st.floats(-5, 5), min_size=2, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))


@given(distinct)
def test_soft_rank_is_the_hard_rank_in_the_limit(strengths):
    # whole numbers within ±50 deviate by at most 71 (two of them), so neighbours are 140 τ apart: the sigmoid is 0 or 1
    ranks = soft_rank(strengths[None], 1e-4)[0]
    np.testing.assert_allclose(ranks, stats.rankdata(-strengths.numpy()), atol=1e-6)


def test_soft_rank_of_ties_is_the_mid_rank():
    strengths = torch.tensor([[3.0, 1.0, 1.0, 0.0]])
    # equal strengths share sigmoid(0) = 1/2 each; the others are 0.8 standard deviations and more away from them
    np.testing.assert_allclose(soft_rank(strengths, 1e-4)[0], stats.rankdata([-3.0, -1.0, -1.0, 0.0]), atol=1e-5)


@given(any_values, st.floats(0.01, 2))
def test_soft_ranks_are_in_their_range_and_add_up(strengths, temperature):
    ranks = soft_rank(strengths[None], temperature)[0]
    count = len(strengths)
    assert (ranks >= 1 - 1e-6).all()
    assert (ranks <= count + 1e-6).all()
    # sigmoid(d) + sigmoid(−d) = 1: each pair shares one
    assert float(ranks.sum()) == pytest.approx(count * (count + 1) / 2, abs=1e-6)


@given(any_values, st.randoms(use_true_random=False))
def test_soft_rank_goes_along_with_a_permutation_of_the_channels(strengths, random):
    order = list(range(len(strengths)))
    random.shuffle(order)
    torch.testing.assert_close(soft_rank(strengths[None, order], 0.3), soft_rank(strengths[None], 0.3)[:, order])


def test_soft_rank_of_equal_strengths_is_the_middle_with_a_finite_gradient():
    strengths = torch.full((1, 5), 0.7, requires_grad=True)
    ranks = soft_rank(strengths, 0.1)
    torch.testing.assert_close(ranks, torch.full((1, 5), 3.0))
    (gradient,) = torch.autograd.grad(ranks[0, 0], strengths)
    assert torch.isfinite(gradient).all()


def test_gradient_of_the_soft_rank_is_that_of_finite_differences():
    strengths = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_rank(s, 0.5), (strengths,))


def test_gradient_of_the_activation_is_that_of_finite_differences():
    class Double(SoftRankActivation):
        """The mask is computed in float32 by choice; here its formula is checked in float64."""

        def kept(self, features):
            channels = features.shape[1]
            ranks = soft_rank(features.abs().mean(dim=(2, 3)), self.temperature)
            return torch.sigmoid((self.keep * channels - ranks) / (self.sharpness * channels))[:, :, None, None]

    features = torch.randn(2, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    real, double = SoftRankActivation(0.5, 0.5, 0.2), Double(0.5, 0.5, 0.2)
    torch.testing.assert_close(real(features), double(features), atol=1e-5, rtol=1e-5)  # float32 mask
    assert torch.autograd.gradcheck(double, (features.requires_grad_(),))
    slopes = [torch.autograd.grad(layer(features).square().sum(), features)[0] for layer in (real, double)]
    torch.testing.assert_close(*slopes, atol=1e-4, rtol=1e-4)


def test_mask_keeps_the_strong_channels_and_is_strictly_between_zero_and_one():
    features = torch.arange(1.0, 9.0).view(1, 8, 1, 1).expand(1, 8, 4, 4) * torch.tensor([1.0, -1.0] * 4).view(1, 8, 1, 1)
    mask = SoftRankActivation(keep=0.5, temperature=0.05, sharpness=0.05).kept(features)[0, :, 0, 0]
    assert ((mask > 0) & (mask < 1)).all()
    assert (mask.diff() > 0).all()  # by strength, whatever the sign
    assert (mask[:4] < 0.5 + 1e-6).all()
    assert (mask[4:] >= 0.5 - 1e-6).all()
    # with keep = ½ the last channel that is kept sits right on the edge (rank 4 of ρC = 4), its neighbours 2½ widths off it
    assert float(mask[4]) == pytest.approx(0.5, abs=0.07)
    assert float(mask[5]) > 0.9
    assert float(mask[3]) < 0.1


def test_activation_multiplies_each_channel_by_its_mask_image_by_image():
    features = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(2))
    layer = SoftRankActivation(0.5, 0.1, 0.05)
    torch.testing.assert_close(layer(features), features * layer.kept(features))
    torch.testing.assert_close(layer(features)[1:2], layer(features[1:2]))


# --- masks


def test_a_random_mask_has_the_size_of_the_ranked_one_and_stays_as_it_was_drawn():
    features = torch.randn(3, 40, 4, 4, generator=torch.Generator().manual_seed(0))
    ranked, drawn = SoftRankActivation(0.3, 1e-6, 0.05), RandomMask(0.3, 0.05, 40, seed=1)
    kept = drawn.kept(features)[0, :, 0, 0]
    # hard ranks: the same values in another order
    torch.testing.assert_close(kept.sort().values, ranked.kept(features)[0, :, 0, 0].sort().values, atol=1e-3, rtol=0)
    assert torch.equal(kept, RandomMask(0.3, 0.05, 40, seed=1).kept(features)[2, :, 0, 0])
    assert not torch.equal(kept, RandomMask(0.3, 0.05, 40, seed=2).kept(features)[0, :, 0, 0])
    torch.testing.assert_close(drawn(features), features * kept[None, :, None, None])


maps = st.integers(0, 10_000).map(
    lambda seed: torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
)


@given(maps, st.floats(0.05, 0.99))
def test_soft_sort_mask_shrinks_towards_the_mean_as_numpy_says(features, share):
    result = SortMask(share, "soft")(features).numpy()
    for image, channel in np.ndindex(2, 3):
        values = features[image, channel].numpy()
        mean = values.mean()
        distances = np.abs(values - mean)
        threshold = np.sort(distances, axis=None)[int(share * 20) - 1]
        expected = mean + np.sign(values - mean) * np.maximum(distances - threshold, 0)
        np.testing.assert_allclose(result[image, channel], expected, atol=1e-12)


@given(maps, st.floats(0.05, 0.99))
def test_hard_sort_mask_keeps_values_or_puts_the_mean_in_their_place(features, share):
    layer = SortMask(share, "hard")
    result, kept = layer(features), layer.kept(features).bool()
    mean = features.mean(dim=(2, 3), keepdim=True).expand_as(features)
    assert torch.equal(result, torch.where(kept, features, mean))
    blocked = 1 - kept.double().mean(dim=(2, 3))
    assert ((blocked - int(share * 20) / 20).abs() < 1e-9).all()  # no two of these distances are equal


@pytest.mark.parametrize("form", ["soft", "hard"])
def test_sort_mask_of_nothing_is_the_identity(form):
    features = torch.randn(2, 3, 4, 4)
    assert torch.equal(SortMask(0.0, form)(features), features)


@given(maps, maps, st.floats(0.05, 0.99))
def test_soft_sort_mask_is_1_lipschitz_an_entry_for_fixed_mean_and_threshold(one, other, share):
    layer = SortMask(share, "soft")
    mean, _, threshold = layer._parts(one)

    def shrunk(values):
        return mean + (values - mean).sign() * torch.relu((values - mean).abs() - threshold)

    torch.testing.assert_close(shrunk(one), layer(one))  # it is the layer's own formula
    assert ((shrunk(one) - shrunk(other)).abs() <= (one - other).abs() + 1e-12).all()


def test_gradient_of_the_soft_sort_mask_is_that_of_finite_differences():
    features = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    assert torch.autograd.gradcheck(SortMask(0.4, "soft"), (features.requires_grad_(),))


def test_a_constant_channel_stays_as_it_is():
    flat = torch.full((1, 2, 3, 3), 0.7)
    for layer in (SortMask(0.5, "soft"), SortMask(0.5, "hard"), SoftRankActivation(0.5, 0.1, 0.05)):
        assert torch.isfinite(layer(flat)).all()
    torch.testing.assert_close(SortMask(0.5, "soft")(flat), flat)


@pytest.mark.parametrize("layer", [SoftRankActivation(0.4, 0.3, 0.1), SortMask(0.4, "soft"), SortMask(0.4, "hard")])
def test_the_order_of_the_channels_changes_nothing(layer):
    features = torch.randn(2, 7, 4, 4, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(layer(features[:, order]), layer(features)[:, order])
