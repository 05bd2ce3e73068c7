"""The five objectives against values worked out by hand."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iqarena.attacks.objective import Kind, Objective

CLEAN = torch.tensor([0.2, 0.5, 0.9])
NOW = torch.tensor([0.3, 0.6, 0.4])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("raise", [-0.3, -0.6, -0.4]),
        ("lower", [0.3, 0.6, 0.4]),
        # (q − (1 − q₀))²: (0.3 − 0.8)², (0.6 − 0.5)², (0.4 − 0.1)²
        ("reflect", [0.25, 0.01, 0.09]),
        # below and on the middle: pushed up (−q); above: pushed down (q)
        ("away", [-0.3, -0.6, 0.4]),
        # the default aim is 1: 0.7², 0.4², 0.6²
        ("target", [0.49, 0.16, 0.36]),
    ],
)
def test_loss_is_the_one_worked_out_by_hand(kind, expected):
    # five float32 operations on numbers below 1: a few units of 6e-8
    torch.testing.assert_close(Objective(kind, CLEAN).loss(NOW), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_losses_share_no_memory_with_qualities(kind):
    qualities = NOW.clone()
    losses = Objective(kind, CLEAN).loss(qualities)
    losses.fill_(7.0)
    assert torch.equal(qualities, NOW)


def test_target_aims_at_its_value():
    loss = Objective("target", CLEAN, value=0.3).loss(NOW)
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.09, 0.01]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("mirror", "axis"), [("mid", [0.5, 0.5, 0.5]), ("mean", [0.6, 0.6, 0.6]), ("label", [0.1, 0.7, 0.8])]
)
def test_mirror_names_the_axis_and_the_reflection_folds_about_it(mirror, axis):
    objective = Objective("reflect", CLEAN, data_mean=0.6, labels=torch.tensor([0.1, 0.7, 0.8])).about(mirror)
    torch.testing.assert_close(objective.axis, torch.tensor(axis))
    mirrored = 2 * torch.tensor(axis) - CLEAN
    torch.testing.assert_close(objective.loss(mirrored), torch.zeros(3), atol=1e-12, rtol=0)
    assert (objective.loss(mirrored + 0.1) > 0.009).all()
    assert (objective.loss(mirrored - 0.1) > 0.009).all()


@given(st.floats(-1, 2, width=32))
def test_reflection_about_the_middle_is_complete_at_one_minus_the_clean_quality(q0):
    clean = torch.tensor([q0])
    # 1 − q₀ is rounded once to float32 in units up to 2.4e-7, and the loss squares that
    assert float(Objective("reflect", clean).loss(1 - clean)) < 1e-12


def test_away_pushes_an_image_on_the_mirror_up():
    on_the_mirror = Objective("away", torch.tensor([0.7]), data_mean=0.7, mirror="mean")
    assert float(on_the_mirror.loss(torch.tensor([0.9]))) < float(on_the_mirror.loss(torch.tensor([0.8])))


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_away_prefers_qualities_on_the_far_side_of_the_mirror(q0, near, far):
    objective = Objective("away", torch.tensor([q0]))
    low, high = sorted((near, far))
    losses = objective.loss(torch.tensor([low])), objective.loss(torch.tensor([high]))
    assert losses[0] >= losses[1] if q0 <= 0.5 else losses[0] <= losses[1]


def test_gradient_of_the_loss_is_the_derivative_by_hand():
    quality = NOW.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Objective("reflect", CLEAN).loss(quality).sum(), quality)
    # 2 (q − (1 − q₀))
    torch.testing.assert_close(gradient, torch.tensor([-1.0, 0.2, 0.6]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("index", [torch.tensor([2, 0]), torch.tensor([True, False, True])])
def test_part_keeps_clean_qualities_and_labels_together(index):
    whole = Objective("away", CLEAN, labels=torch.tensor([0.9, 0.1, 0.3]), mirror="label")
    part = whole.part(index)
    torch.testing.assert_close(part.loss(NOW[index]), whole.loss(NOW)[index])


def test_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="'upset' is not one of raise, lower, reflect, away, target"):
        Objective("upset", CLEAN)


def test_label_mirror_without_labels_is_refused():
    with pytest.raises(ValueError, match="mirror=label needs"):
        Objective("reflect", CLEAN, mirror="label")
    with pytest.raises(ValueError, match="mirror=label needs"):
        Objective("reflect", CLEAN).about("label")
