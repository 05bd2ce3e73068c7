"""CPRL (our reconstruction): the losses against small sums, the interventions, and the surrogates of its adaptive attack."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iqarena.bench.errors import UserError
from iqarena.bench.registry import DEFENSES
from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.cprl.activation import RandomMask, SoftRankActivation
from iqarena.defenses.cprl.cprl import CPRL
from iqarena.defenses.cprl.cprl_sortmask import INTERVENTIONS, CPRLSortMask, interventions
from iqarena.defenses.cprl.model import CPRLModel, StraightThrough
from iqarena.defenses.cprl.sort_mask import SortMask
from iqarena.defenses.training.adversarial import AdversarialTraining
from iqarena.models.cnniqa import CNNIQA
from iqarena.models.resnet_iqa import ResNetIQA
from tests.support.analytic_models import MeanModel
from tests.support.attack_runs import random_pixels


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
    [
        (CPRL(), SoftRankActivation(0.5, 0.1, 0.05)),
        (CPRL(mask="random", mask_seed=3), RandomMask(0.5, 0.05, 128, 3)),
        (CPRLSortMask(), SortMask(0.3, "soft")),
        (CPRLSortMask(form="hard", share=0.6), SortMask(0.6, "hard")),
    ],
)
def test_the_activation_is_between_feature_maps_and_head(defense, activation):
    model, defended = prepared(AdversarialTraining()), prepared(defense)
    assert isinstance(defended, CPRLModel)
    images = random_pixels(2, 64, 64).float() / 255
    torch.testing.assert_close(defended(images), model.head(activation(model.features(images)), 2))


def batch():
    """Return three flat images with labels; a model that returns the mean pixel has known losses on them."""
    images = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1, 1).expand(3, 3, 8, 8).contiguous()
    return images, torch.tensor([0.3, 0.3, 0.9])


class Means(CPRLModel):
    """A model whose score is the mean pixel."""

    def __init__(self):
        super().__init__(CNNIQA(), SortMask(0, "soft"))
        self.info = MeanModel.info

    def features(self, images):
        return images

    def head(self, features, count):
        return features.mean(dim=(1, 2, 3))


def test_the_terms_of_cprl_are_what_its_docstring_says():
    images, labels = batch()
    sufficiency = np.mean([0.1**2, 0.2**2, 0.0])
    # effects against the next image: |0.2−0.9|, |0.5−0.2|, |0.9−0.5|; label distances 0.6, 0, 0.6, cut at μ
    for margin, necessity in ((0.2, 0.0), (0.6, np.mean([0, 0, 0.2]))):
        loss = CPRL(adversarial_weight=0, necessity_weight=0.5, margin=margin).loss(Means(), images, labels, 1.0)
        assert float(loss) == pytest.approx(sufficiency + 0.5 * necessity, abs=1e-6)


@pytest.mark.parametrize("recipe", [CPRL, CPRLSortMask])
def test_a_recipe_without_its_inner_attack_costs_one_pass(recipe):
    assert (recipe().passes_an_image, recipe(adversarial_weight=0).passes_an_image) == (4, 1)


def test_the_minimax_term_is_the_squared_error_at_the_edge_of_the_ball():
    images, labels = batch()
    loss = CPRL(necessity_weight=0, epsilon=4 / 255).loss(Means(), images, labels, 1.0)
    # the inner steps add up to 1.25 ε from anywhere in the ball, so at least 1/4 ε on the wrong side of the clean image
    errors = np.array([0.1, 0.2, 0.0])
    least, most = errors, errors + 4 / 255
    clean = np.mean(errors**2)
    assert clean + np.mean(least**2) < float(loss) <= clean + np.mean(most**2) + 1e-6


def test_the_invariance_loss_is_zero_for_a_model_that_nothing_moves():
    class Constant(Means):
        def head(self, features, count):
            return features.mean(dim=(1, 2, 3)) * 0 + 0.5

    images, labels = batch()
    loss = CPRLSortMask().loss(Constant(), images, labels, 1.0)
    assert float(loss) == pytest.approx(np.mean([0.2**2, 0.2**2, 0.4**2]), abs=1e-6)
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
    ("spec", "message"),
    [
        ("cprl[keep=1]", "keep must be"),
        ("cprl[mask=best]", "mask"),
        ("cprl[through=walls]", "through"),
        ("cprl-sortmask[share=1]", "share must be"),
        ("cprl-sortmask[form=liquid]", "form"),
    ],
)
def test_parameters_out_of_range_are_one_line(spec, message):
    with pytest.raises(UserError, match=message):
        DEFENSES.build(spec)


# --- what an adaptive attacker differentiates


@pytest.mark.parametrize("through", ["smoother", "sharper", "identity"])
def test_surrogates_of_the_shipped_weights_are_near_and_have_a_gradient(through):
    model = DEFENSES.build("none").protect(ResNetIQA().eval())
    deployed = CPRL().protect(model)
    surrogate = CPRL(through=through).surrogate(model)
    images = random_pixels(4, 64, 64).float() / 255
    with torch.no_grad():
        distance = (deployed.quality(images) - surrogate.quality(images)).abs().max()
    # identity leaves the forward as it is; four times wider or narrower edges move scores of these images by up to 0.1
    assert float(distance) <= (1e-6 if through == "identity" else 0.2)
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
