"""CPRL (our reconstruction): layers against SciPy and finite differences, losses against small sums, explanations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from iqarena.bench.cli.explain import explain, write
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import UserError
from iqarena.bench.registry import DEFENSES
from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.cprl.activation import RandomMask, SoftRankActivation, soft_rank
from iqarena.defenses.cprl.cprl import CPRL
from iqarena.defenses.cprl.cprl_sortmask import INTERVENTIONS, CPRLSortMask, interventions
from iqarena.defenses.cprl.model import CPRLModel, StraightThrough
from iqarena.defenses.cprl.sort_mask import SortMask
from iqarena.defenses.training.adversarial import AdversarialTraining
from iqarena.models.cnniqa import CNNIQA
from iqarena.models.resnet_iqa import ResNetIQA
from tests.support.analytic_models import MeanModel
from tests.support.attack_runs import random_pixels

# --- the soft rank

distinct = st.lists(st.integers(-50, 50), min_size=2, max_size=12, unique=True).map(
    lambda v: torch.tensor(v, dtype=torch.float64)
)
any_values = st.lists(st.floats(-5, 5), min_size=2, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))


@given(distinct)
def test_soft_rank_is_the_hard_rank_in_the_limit(strengths):
    # whole numbers within ±50 deviate by at most 71 (two of them), so neighbours are 140 τ apart: the sigmoid is 0 or 1
    found = soft_rank(strengths[None], 1e-4)[0]
    np.testing.assert_allclose(found, stats.rankdata(-strengths.numpy()), atol=1e-6)


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
    found = SortMask(share, "soft")(features).numpy()
    for image, channel in np.ndindex(2, 3):
        values = features[image, channel].numpy()
        mean = values.mean()
        distances = np.abs(values - mean)
        threshold = np.sort(distances, axis=None)[int(share * 20) - 1]
        expected = mean + np.sign(values - mean) * np.maximum(distances - threshold, 0)
        np.testing.assert_allclose(found[image, channel], expected, atol=1e-12)


@given(maps, st.floats(0.05, 0.99))
def test_hard_sort_mask_keeps_values_or_puts_the_mean_in_their_place(features, share):
    layer = SortMask(share, "hard")
    found, kept = layer(features), layer.kept(features).bool()
    mean = features.mean(dim=(2, 3), keepdim=True).expand_as(features)
    assert torch.equal(found, torch.where(kept, features, mean))
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


# --- the defenses


def prepared(defense):
    torch.manual_seed(0)
    return defense.prepare(ResNetIQA()).eval()


@pytest.mark.parametrize("name", ["cprl", "cprl-sortmask"])
def test_cprl_does_not_apply_to_a_model_without_feature_maps(name):
    with pytest.raises(DoesNotApply, match="visible feature maps"):
        DEFENSES.build(name).prepare(MeanModel())


def test_cprl_plugs_into_a_model_that_works_on_patches_and_sort_mask_needs_maps():
    torch.manual_seed(0)
    images = random_pixels(2, 64, 96).float() / 255
    model = CPRL().prepare(CNNIQA()).eval()
    assert model(images).shape == (2,)
    with pytest.raises(DoesNotApply, match="more than one value"):
        CPRLSortMask().prepare(CNNIQA())


@pytest.mark.parametrize(
    ("defense", "activation"),
    [(CPRL(), SoftRankActivation(0.5, 0.1, 0.05)), (CPRL(mask="random", mask_seed=3), RandomMask(0.5, 0.05, 128, 3)),
     (CPRLSortMask(), SortMask(0.3, "soft")), (CPRLSortMask(form="hard", share=0.6), SortMask(0.6, "hard"))],
)  # fmt: skip
def test_the_activation_is_between_feature_maps_and_head(defense, activation):
    model, made = prepared(AdversarialTraining()), prepared(defense)
    assert isinstance(made, CPRLModel)
    images = random_pixels(2, 64, 64).float() / 255
    torch.testing.assert_close(made(images), model.head(activation(model.features(images)), 2))


def plain(epsilon=2 / 255):
    """CPRL's losses on an image batch whose scores are known: the model is the mean pixel."""
    images = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1, 1).expand(3, 3, 8, 8).contiguous()
    return images, torch.tensor([0.3, 0.3, 0.9])


class Means(CPRLModel):
    """Its head's score is the mean pixel."""

    def __init__(self):
        super().__init__(CNNIQA(), SortMask(0, "soft"))
        self.info = MeanModel.info

    def features(self, images):
        return images

    def head(self, features, count):
        return features.mean(dim=(1, 2, 3))


def test_the_terms_of_cprl_are_what_its_docstring_says():
    images, labels = plain()
    sufficiency = np.mean([0.1**2, 0.2**2, 0.0])
    # effects against the next image: |0.2−0.9|, |0.5−0.2|, |0.9−0.5|; label distances 0.6, 0, 0.6, cut at μ
    for margin, necessity in ((0.2, 0.0), (0.6, np.mean([0, 0, 0.2]))):
        found = CPRL(adversarial_weight=0, necessity_weight=0.5, margin=margin).loss(Means(), images, labels, 1.0)
        assert float(found) == pytest.approx(sufficiency + 0.5 * necessity, abs=1e-6)


@pytest.mark.parametrize("made", [CPRL, CPRLSortMask])
def test_a_recipe_without_its_inner_attack_costs_one_pass(made):
    assert (made().passes_an_image, made(adversarial_weight=0).passes_an_image) == (4, 1)


def test_the_minimax_term_is_the_squared_error_at_the_edge_of_the_ball():
    images, labels = plain()
    found = CPRL(necessity_weight=0, epsilon=4 / 255).loss(Means(), images, labels, 1.0)
    # the inner steps add up to 1.25 ε from anywhere in the ball, so at least 1/4 ε on the wrong side of the clean image
    errors = np.array([0.1, 0.2, 0.0])
    least, most = errors, errors + 4 / 255
    clean = np.mean(errors**2)
    assert clean + np.mean(least**2) < float(found) <= clean + np.mean(most**2) + 1e-6


def test_the_invariance_loss_is_zero_for_a_model_that_nothing_moves():
    class Constant(Means):
        def head(self, features, count):
            return features.mean(dim=(1, 2, 3)) * 0 + 0.5

    images, labels = plain()
    found = CPRLSortMask().loss(Constant(), images, labels, 1.0)
    assert float(found) == pytest.approx(np.mean([0.2**2, 0.2**2, 0.4**2]), abs=1e-6)
    alone = CPRLSortMask(adversarial_weight=0).loss(Means(), images, labels, 1.0)
    assert float(alone) == pytest.approx(np.mean([0.1**2, 0.2**2, 0.0]), abs=1e-6)


def test_interventions_are_imperceptible_and_each_does_what_it_is_called():
    torch.manual_seed(0)
    count, epsilon = 4 * 8, 8 / 255
    images = torch.full((count, 3, 8, 8), 0.4)
    labels = torch.full((count,), 0.3)
    changed = interventions(Means().train(), images, labels, epsilon)
    assert (changed - images).abs().max() <= epsilon + 1e-6
    moved = (changed - images).mean(dim=(1, 2, 3)).view(-1, 4).mean(0)
    noise, fgsm, pgd, reflection = moved.tolist()
    assert INTERVENTIONS == ("noise", "fgsm", "pgd", "reflection")
    assert abs(noise) < 0.1 * epsilon
    for forward in (fgsm, pgd, reflection):  # all away from 0.3, the last towards 0.7
        assert forward > 0.4 * epsilon


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("cprl[keep=1]", "keep must be"), ("cprl[mask=best]", "mask"), ("cprl[through=walls]", "through"),
     ("cprl-sortmask[share=1]", "share must be"), ("cprl-sortmask[form=liquid]", "form")],
)  # fmt: skip
def test_parameters_out_of_range_are_one_line(wrong, words):
    with pytest.raises(UserError, match=words):
        DEFENSES.build(wrong)


# --- what an adaptive attacker differentiates


@pytest.mark.parametrize("through", ["smoother", "sharper", "identity"])
def test_surrogates_of_the_shipped_weights_are_near_and_have_a_gradient(through):
    model = DEFENSES.build("none").protect(ResNetIQA().eval())
    deployed = CPRL().protect(model)
    surrogate = CPRL(through=through).surrogate(model)
    images = random_pixels(4, 64, 64).float() / 255
    with torch.no_grad():
        apart = (deployed.quality(images) - surrogate.quality(images)).abs().max()
    # identity leaves the forward as it is; four times wider or narrower edges move scores of these images by up to 0.1
    assert float(apart) <= (1e-6 if through == "identity" else 0.2)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(surrogate.quality(leaf).sum(), leaf)
    assert torch.isfinite(gradient).all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    exact = torch.autograd.grad(deployed.quality(leaf).sum(), leaf)[0]
    assert not torch.equal(gradient, exact)


def test_straight_through_hands_the_gradient_on_as_it_is():
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    layer = StraightThrough(SortMask(0.8, "hard"))
    torch.testing.assert_close(layer(features), SortMask(0.8, "hard")(features))
    (gradient,) = torch.autograd.grad((layer(features) * 2).sum(), features)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 2.0))


# --- explanations


@pytest.fixture(scope="module")
def image(tmp_path_factory, natural):
    path = tmp_path_factory.mktemp("explain") / "a.png"
    Image.fromarray(natural[:96, :96]).save(path)
    return path


@pytest.fixture(scope="module")
def explained(image):
    return explain(image, "resnet-iqa", "cprl", attack="score-reflection-away[steps=3]")


def test_an_explanation_holds_the_models_own_numbers(explained):
    assert explained.clean.shape == explained.attacked.shape == (96, 96, 3)
    assert np.abs(explained.clean.astype(int) - explained.attacked.astype(int)).max() <= 2
    assert explained.cpr.shape == (6, 6)
    assert len(explained.channels) == 128
    assert explained.channels["mask"].between(0, 1).all()
    # half of the channels is kept, softly
    assert explained.channels["mask"].sum() == pytest.approx(64, abs=8)
    swaps = explained.swaps.set_index("from_attacked")
    assert list(swaps.index) == ["none", "do(N)", "do(C)", "both"]
    # nothing swapped is the clean image, everything the attacked one, whatever the mask
    for name, quality in (("none", explained.clean_quality), ("both", explained.attacked_quality)):
        for column in ("quality", "random_mean", "random_least", "random_most"):
            assert swaps.loc[name, column] == pytest.approx(quality, abs=1e-3), (name, column)
    assert 0 <= explained.overlap <= 1
    assert explained.overlap_by_chance == pytest.approx(0.5, abs=0.07)


def test_a_channels_numbers_are_those_of_the_model_run_by_hand(explained):
    model = CPRL().protect(ResNetIQA().eval())
    demo = Demo()

    def z(pixels):
        return model.model.features(pixels[None].float() / 255)

    def quality(maps):
        return float(model.model.head(model.activation(maps), 1))

    with torch.no_grad():
        before, after = (z(torch.tensor(a).permute(2, 0, 1)) for a in (explained.clean, explained.attacked))
        some = [z(demo.image(i)) for i in demo.spread(24)]
        usual = torch.stack([maps.mean(dim=(0, 2, 3)) for maps in some]).mean(0)
        for channel in (0, 77):
            out, swapped = before.clone(), before.clone()
            out[0, channel], swapped[0, channel] = usual[channel], after[0, channel]
            row = explained.channels.loc[channel]
            assert row["effect"] == pytest.approx(abs(quality(out) - quality(before)), abs=1e-5)
            assert row["adversarial_effect"] == pytest.approx(quality(swapped) - quality(before), abs=1e-5)
            moved = (after - before)[0, channel].abs().mean() / np.mean([maps[0, channel].abs().mean() for maps in some])
            assert row["shift"] == pytest.approx(float(moved), rel=1e-3)


def test_an_explanation_is_written_as_one_image_and_one_table(explained, tmp_path):
    image, table = write(explained, "a", tmp_path / "new")
    assert table.read_text().splitlines()[0] == "channel,mask,mask_attacked,effect,shift,adversarial_effect"
    with Image.open(image) as opened:
        assert opened.size[0] > 900


@pytest.mark.parametrize(
    ("defense", "words"),
    [("adversarial-training", "does not part features"), ("cprl[keep=0.4]", "was trained with keep=0.5")],
)
def test_what_cannot_be_explained_is_one_line(image, defense, words):
    with pytest.raises(UserError, match=words):
        explain(image, "resnet-iqa", defense, attack="fgsm")
