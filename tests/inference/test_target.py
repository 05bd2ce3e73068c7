"""The attack target: what an attack can access of a model, and which passes are counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from iqarena.bench.inference.target import ModelError, Target, TargetError, checked_quality, frozen
from iqarena.models.base import Custom, ModelInfo, QualityModel
from tests.support.analytic_models import LinearModel, MeanModel, NaNModel, StochasticModel, WrongShapeModel

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def identity(quality):
    return quality


class Deaf(QualityModel):
    """A model that cuts the gradient, as one with a codec inside does."""

    info = ModelInfo("deaf", min_size=1)

    def forward(self, images):
        return images.detach().mean(dim=(1, 2, 3))


def test_quality_is_counted_once_an_image_and_carries_no_graph():
    target = Target(MeanModel(), 3, "score")
    quality = target.quality(IMAGES)
    torch.testing.assert_close(quality, IMAGES.mean(dim=(1, 2, 3)))
    assert not quality.requires_grad
    assert not quality.is_inference()
    assert target.counts.forwards.tolist() == [1, 1, 1]
    assert target.counts.backwards.tolist() == [0, 0, 0]


def test_gradient_is_that_of_the_loss_of_each_image_by_itself():
    model = LinearModel()
    target = Target(model, 3, "gradient")
    with frozen(model):
        quality, gradient = target.quality_and_grad(IMAGES, lambda q: q**2)
    torch.testing.assert_close(quality, model(IMAGES).detach())
    torch.testing.assert_close(gradient, 2 * quality.view(-1, 1, 1, 1) * model.weight.detach())
    assert target.counts.forwards.tolist() == [1, 1, 1]
    assert target.counts.backwards.tolist() == [1, 1, 1]
    assert not IMAGES.requires_grad


def test_gradient_works_where_the_caller_has_switched_gradients_off():
    with torch.no_grad():
        _, gradient = Target(MeanModel(), 3, "gradient").quality_and_grad(IMAGES, identity)
    torch.testing.assert_close(gradient, torch.full_like(IMAGES, 1 / 768))


def test_gradient_is_there_for_images_that_come_out_of_inference_mode():
    with torch.inference_mode():
        images = IMAGES.clone()
    _, gradient = Target(MeanModel(), 3, "gradient").quality_and_grad(images, identity)
    torch.testing.assert_close(gradient, torch.full_like(IMAGES, 1 / 768))


def test_part_charges_only_its_own_images():
    target = Target(MeanModel(), 3, "gradient")
    target.quality(IMAGES)
    target.part(torch.tensor([2, 0])).quality_and_grad(IMAGES[[2, 0]], identity)
    target.part(torch.tensor([False, True, False])).quality(IMAGES[1:2])
    target.part(torch.tensor([1, 2])).part(torch.tensor([1])).quality(IMAGES[2:])
    assert target.counts.forwards.tolist() == [2, 2, 3]
    assert target.counts.backwards.tolist() == [1, 0, 1]


def test_another_number_of_images_is_refused_and_not_charged():
    target = Target(MeanModel(), 3, "gradient")
    for ask in (target.quality, lambda x: target.quality_and_grad(x, identity), target.module(identity)):
        with pytest.raises(TargetError, match=r"2 images came in for a batch of 3; use target\.part"):
            ask(IMAGES[:2])
    assert target.counts.forwards.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("access", "asked", "word"),
    [
        ("score", "quality_and_grad", "gradient"),
        ("none", "quality_and_grad", "gradient"),
        ("none", "quality", "score"),
        ("score", "module", "gradient"),
    ],
)
def test_an_attack_gets_no_more_than_it_declared(access, asked, word):
    target = Target(MeanModel(), 3, access)
    arguments = {"quality": (IMAGES,), "quality_and_grad": (IMAGES, identity), "module": (identity,)}[asked]
    with pytest.raises(TargetError, match=f"declared access='{access}' and asked for a {word}"):
        getattr(target, asked)(*arguments)
    assert target.counts.forwards.tolist() == [0, 0, 0]


def test_query_limit_is_enforced_to_the_pass():
    target = Target(MeanModel(), 3, "gradient", queries=3)
    module = target.module(identity)
    assert target.queries_left == 3
    target.quality(IMAGES)
    target.quality_and_grad(IMAGES, identity)
    module(IMAGES)
    assert target.queries_left == 0
    for ask in (target.quality, lambda x: target.quality_and_grad(x, identity), module):
        with pytest.raises(TargetError, match="query limit of 3"):
            ask(IMAGES)
    assert target.counts.forwards.tolist() == [3, 3, 3]


def test_query_limit_counts_each_image_by_itself():
    target = Target(MeanModel(), 3, "score", queries=2)
    first = target.part(torch.tensor([0]))
    first.quality(IMAGES[:1])
    first.quality(IMAGES[:1])
    assert first.queries_left == 0
    assert target.queries_left == 0  # the whole can only go on if all may
    assert target.part(torch.tensor([1, 2])).queries_left == 2
    target.part(torch.tensor([1, 2])).quality(IMAGES[1:])
    assert target.counts.forwards.tolist() == [2, 1, 1]


def test_draws_of_a_stochastic_model_are_paid_from_the_query_limit():
    target = Target(StochasticModel(), 3, "score", queries=10, draws=4)
    assert target.queries_left == 2  # queries, at four passes each
    target.quality(IMAGES)
    target.quality(IMAGES)
    assert target.queries_left == 0
    with pytest.raises(TargetError, match="query limit"):
        target.quality(IMAGES)  # two passes are left, an answer costs four
    assert target.counts.forwards.tolist() == [8, 8, 8]


def test_no_limit_is_no_number():
    assert Target(MeanModel(), 3, "score").queries_left is None


def test_gradient_variance_falls_with_the_draws():
    def spread(draws):
        gradients = [
            Target(StochasticModel(), 3, "gradient", draws=draws, seed=s).quality_and_grad(IMAGES, identity)[1]
            for s in range(40)
        ]
        return float(torch.stack(gradients).var(dim=0).mean())

    # the variance of a mean of 16 draws is a sixteenth; 40 seeds × 2,304 values pin either variance to about 0.5 %
    assert spread(1) / spread(16) == pytest.approx(16, rel=0.1)


def test_stochastic_answers_are_repeatable_differ_along_the_way_and_leave_the_global_stream_alone():
    state = torch.get_rng_state()
    first, second = (Target(StochasticModel(), 3, "score", draws=2, seed=7) for _ in range(2))
    answers = [first.quality(IMAGES), first.quality(IMAGES)]
    assert torch.equal(answers[0], second.quality(IMAGES))
    assert not torch.equal(*answers)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(answers[0], Target(StochasticModel(), 3, "score", draws=2, seed=8).quality(IMAGES))


def test_draws_mean_nothing_to_a_model_that_is_not_stochastic():
    target = Target(MeanModel(), 3, "score", draws=8)
    target.quality(IMAGES)
    assert target.counts.forwards.tolist() == [1, 1, 1]


def test_module_counts_forwards_and_backwards():
    target = Target(MeanModel(), 3, "gradient")
    module = target.module(lambda q: -q)
    leaf = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, torch.full_like(IMAGES, -1 / 768))
    module(IMAGES)
    assert target.counts.forwards.tolist() == [2, 2, 2]
    assert target.counts.backwards.tolist() == [1, 1, 1]


def test_module_counts_a_backward_once_where_one_leaf_goes_in_again_and_again():
    target = Target(MeanModel(), 3, "gradient")
    module = target.module(identity)
    leaf = IMAGES.clone().requires_grad_()
    for _ in range(3):
        torch.autograd.grad(module(leaf).sum(), leaf)
    assert target.counts.backwards.tolist() == [3, 3, 3]


@pytest.mark.parametrize("way", ["gradient", "module"])
def test_zero_gradients_are_counted_image_by_image_where_one_was_wanted(way):
    class Flat(MeanModel):
        def forward(self, images):
            return super().forward(images) * torch.tensor([1.0, 1.0, 0.0])

    def loss(
        quality,
    ):  # flat for the first image, as a library's hinge loss is, or a square loss at its target: not a fault of the model
        return quality * torch.tensor([0.0, 1.0, 1.0])

    target = Target(Flat(), 3, "gradient")
    if way == "gradient":
        target.quality_and_grad(IMAGES, loss)
    else:
        leaf = IMAGES.clone().requires_grad_()
        torch.autograd.grad(target.module(loss)(leaf).sum(), leaf)
    assert target.counts.backwards.tolist() == [1, 1, 1]
    assert target.counts.zero_gradients.tolist() == [0, 0, 1]


def test_a_gradient_that_is_not_a_number_counts_as_none():
    target = Target(NaNModel(), 3, "gradient")
    quality, _ = target.quality_and_grad(IMAGES, identity)
    assert quality.isnan().all()
    assert target.counts.zero_gradients.tolist() == [1, 1, 1]


def test_a_model_without_a_path_to_the_pixels_is_named():
    with pytest.raises(ModelError, match="deaf: no gradient reaches the pixels"):
        Target(Deaf(), 3, "gradient").quality_and_grad(IMAGES, identity)


def test_scores_of_another_shape_are_a_model_error():
    for ask in (Target(WrongShapeModel(), 3, "score").quality, lambda x: checked_quality(WrongShapeModel(), x)):
        with pytest.raises(ModelError, match=r"wrong-shape: returned torch.float32 of shape \(3, 1\) for 3 images"):
            ask(IMAGES)


def test_integer_scores_are_a_model_error():
    class Counter(MeanModel):
        def quality(self, images):
            return images.argmax(dim=1).flatten(1).sum(1)

    with pytest.raises(ModelError, match="int64"):
        checked_quality(Counter(), IMAGES)


def test_scores_of_half_precision_become_float32():
    class Half(MeanModel):
        def forward(self, images):
            return super().forward(images).to(torch.bfloat16)

    assert checked_quality(Half(), IMAGES).dtype == torch.float32


def test_a_model_that_flattens_by_view_is_scored():
    """Many published models do; a view wants the memory layout of an ordinary tensor."""

    class Viewing(MeanModel):
        def forward(self, images):
            return images.view(len(images), -1).mean(dim=1)

    target = Target(Viewing(), 3, "gradient")
    torch.testing.assert_close(target.quality(IMAGES), IMAGES.mean(dim=(1, 2, 3)))
    _, gradient = target.quality_and_grad(IMAGES, identity)
    torch.testing.assert_close(gradient, torch.full_like(IMAGES, 1 / 768))


def _mixed() -> QualityModel:
    """A model in train mode with one part in eval mode and one weight that is not trained."""
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    ).train()
    module[1].eval()
    module[0].bias.requires_grad_(False)
    return Custom(module, ModelInfo("mixed", min_size=3))


def test_frozen_puts_back_modes_and_wishes_for_gradients_of_every_part():
    model = _mixed()
    modes = [part.training for part in model.modules()]
    wishes = [weight.requires_grad for weight in model.parameters()]
    assert len(set(modes)) == len(set(wishes)) == 2
    with frozen(model):
        assert not any(part.training for part in model.modules())
        assert not any(weight.requires_grad for weight in model.parameters())
    assert [part.training for part in model.modules()] == modes
    assert [weight.requires_grad for weight in model.parameters()] == wishes


def test_frozen_puts_things_back_after_an_error():
    model = _mixed()
    modes = [part.training for part in model.modules()]
    with pytest.raises(RuntimeError, match="halfway"), frozen(model):
        raise RuntimeError("halfway")
    assert [part.training for part in model.modules()] == modes
    assert sum(weight.requires_grad for weight in model.parameters()) == 5


def test_attacking_leaves_running_statistics_and_weight_gradients_alone():
    model = _mixed()
    model.module[1].train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with frozen(model):
        target = Target(model, 3, "gradient")
        target.quality(IMAGES)
        target.quality_and_grad(IMAGES, identity)
        leaf = IMAGES.clone().requires_grad_()
        target.module(identity)(leaf).sum().backward()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


class Overwrites(QualityModel):
    """The mean pixel, of images that are centred in place."""

    info = ModelInfo("overwrites", min_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images -= 0.5
        return images.mean(dim=(1, 2, 3))


@pytest.mark.parametrize("access", ["score", "gradient"])
def test_a_model_that_writes_into_its_images_is_named_and_the_images_stay(access):
    images = torch.rand(2, 3, 8, 8)
    before = images.clone()
    target = Target(Overwrites(), 2, access)
    with pytest.raises(ModelError, match="overwrites: writes into the images that it is given"):
        target.quality(images) if access == "score" else target.quality_and_grad(images, lambda quality: quality)
    assert torch.equal(images, before)
