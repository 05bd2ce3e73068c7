"""Query curves of one run: the best value so far at every checkpoint, by batch and part."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from iqarena.attacks.base import Generators
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.pgd import PGD
from iqarena.attacks.square import Square
from iqarena.attacks.threat import Threat
from iqarena.bench.cells import expand
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import local
from iqarena.bench.inference.query_trace import CHECKPOINTS, QueryTrace, curve
from iqarena.bench.inference.target import Target, frozen
from iqarena.bench.results.store import Records
from iqarena.bench.suite import validated
from tests.support.analytic_models import LinearModel, StochasticModel
from tests.support.attack_runs import random_pixels


def test_checkpoints_rise_by_one_two_five():
    assert CHECKPOINTS[:7] == (1, 2, 5, 10, 20, 50, 100)
    assert list(CHECKPOINTS) == sorted(set(CHECKPOINTS))


def test_the_best_so_far_counts_and_a_nan_never_does():
    trace = QueryTrace(Objective("raise", torch.tensor([0.2, 0.5])))
    every, second = torch.arange(2), torch.tensor([1])
    trace.note(every, torch.tensor([2, 2]), torch.tensor([0.4, 0.3]))
    trace.note(second, torch.tensor([3]), torch.tensor([0.9]))
    trace.note(every, torch.tensor([3, 4]), torch.tensor([math.nan, 0.6]))
    trace.note(every, torch.tensor([11, 5]), torch.tensor([0.7, 0.1]))
    # after 1, 2, 5, 10, 20 forwards
    np.testing.assert_allclose(trace.seen[0, :5], [0.2, 0.4, 0.4, 0.4, 0.7])
    np.testing.assert_allclose(trace.seen[1, :5], [0.5, 0.5, 0.9, 0.9, 0.9])


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_trace_leaves_the_clean_qualities_as_they_are(kind):
    clean = torch.tensor([0.2, 0.9])
    objective = Objective(kind, clean.clone())
    trace = QueryTrace(objective)
    for qualities in ([0.1, 0.8], [0.7, 0.95]):
        trace.note(torch.arange(2), torch.tensor([2, 2]), torch.tensor(qualities))
    assert torch.equal(objective.clean, clean)


@pytest.mark.parametrize("kind", ["raise", "lower"])
def test_a_search_moves_quality_both_ways_while_a_trace_is_kept(kind):
    images, model = random_pixels(4, low=60, high=200).float() / 255, LinearModel()
    target = Target(model, len(images), "score")
    objective = Objective(kind, target.quality(images))
    target.trace = QueryTrace(objective)
    attacked = Square(queries=50).run(target, images, objective, Threat("linf", 8 / 255), Generators(range(4)))
    gains = target.quality(attacked) - target.quality(images)
    assert (gains > 0).all() if kind == "raise" else (gains < 0).all()


def run(attack, model, count=6, queries=None):
    """Run an attack; return its target, with the trace."""
    images = random_pixels(count, low=60, high=200).float() / 255
    with frozen(model):
        target = Target(model, count, attack.access, queries=queries, draws=3)
        objective = Objective("away", target.quality(images))
        target.trace = QueryTrace(objective)
        attack.run(target, images, objective, Threat("linf", 4 / 255, queries), Generators(list(range(count))))
    return target


@pytest.mark.parametrize("attack", [PGD(steps=12), Square(queries=60)])
def test_more_queries_are_never_worse_and_the_curve_ends_where_the_best_is(attack):
    target = run(attack, LinearModel())
    trace = target.trace
    away = (trace.seen - trace.seen[:, :1]) * torch.where(trace.objective.clean > 0.5, -1, 1)[:, None]
    assert (away.diff(dim=1) >= 0).all()
    assert torch.equal(trace.seen[:, -1], trace.best)
    assert (away[:, -1] > 0).all()


def test_a_run_with_a_lower_limit_ends_where_the_longer_one_was_then():
    long, short = run(PGD(steps=30), LinearModel()), run(PGD(steps=30), LinearModel(), queries=10)
    index = CHECKPOINTS.index(10)
    np.testing.assert_allclose(long.trace.seen[:, index], short.trace.best, atol=1e-6)


def test_draws_of_a_stochastic_model_are_paid_for():
    target = run(PGD(steps=2), StochasticModel())
    # the clean query, two of gradients and a last one, each of three draws
    assert int(target.counts.forwards.max()) == 12
    first = CHECKPOINTS.index(5)  # only the clean query, and half of the next, has been paid by then
    assert torch.equal(target.trace.seen[:, first], target.trace.objective.clean)


def test_what_a_record_says_of_a_trace():
    clean, labels = torch.tensor([0.2, 0.4, 0.8]), torch.tensor([0.1, 0.5, 0.9])
    seen = clean[:, None].repeat(1, len(CHECKPOINTS))
    seen[:, 1:] = torch.tensor([0.9, 0.4, 0.1])[:, None]
    result = curve(clean, seen, torch.tensor([3, 7, 7]), labels)
    assert result["forwards"] == [1, 2, 5, 7]
    assert result["abs_gain"] == pytest.approx([0, 1.4 / 3, 1.4 / 3, 1.4 / 3])
    assert result["srocc"] == pytest.approx([1, -1, -1, -1])
    assert result["stability_srocc"] == pytest.approx([1, -1, -1, -1])
    assert curve(clean, seen, torch.tensor([3, 7, 7]), labels * math.nan)["srocc"] == [None] * 4
    partly = torch.tensor([0.1, math.nan, 0.9])
    assert curve(clean, seen, torch.tensor([3, 7, 7]), partly)["srocc"] == pytest.approx([1, -1, -1, -1])
    assert curve(clean, seen, torch.tensor([2, 1, 1]), labels)["forwards"] == [1, 2]
    assert curve(clean * math.nan, seen, torch.tensor([2, 1, 1]), labels) == {}
    assert curve(clean, seen, torch.tensor([0, 0, 0]), labels) == {}


def test_a_record_holds_the_curve_of_its_attack(tmp_path: Path):
    root = tmp_path / "images"
    root.mkdir()
    stream = np.random.default_rng(3)
    rows = []
    for number in range(8):
        Image.fromarray(stream.integers(60, 200, (16, 16, 3), dtype=np.uint8)).save(root / f"{number}.png")
        rows.append((f"{number}.png", f"ref{number % 4}", float(stream.random())))
    pd.DataFrame(rows, columns=["image", "reference_id", "mos"]).to_csv(root / "labels.csv", index=False)
    chosen = {"dataset": "folder", "models": ["linear"], "settings": ["adaptive"],
              "attacks": ["pgd[steps=12]", "random-noise", "torchattacks:PGD"]}  # fmt: skip
    records = Records(tmp_path / "out")
    evaluator = Evaluator(Folder(root), None, 3, {"linear": LinearModel()})
    assert not local.run(evaluator, expand(validated(chosen)), records, report=lambda *_: None).failed
    records_by_attack = {record["cell"]["attack"]: record for record in records.all()}
    assert records_by_attack["random-noise"]["curve"] == {}
    for name in ("pgd[steps=12]", "torchattacks:PGD"):
        record = records_by_attack[name]
        images = records.images(record["cell_id"])
        assert record["curve"]["forwards"][-1] == images.forwards.max()
        assert record["curve"]["abs_gain"][0] == 0
        assert np.all(np.diff(record["curve"]["abs_gain"]) >= 0)
    # our own PGD queries images as they are stored, so its curve ends at the record's own numbers
    own = records_by_attack["pgd[steps=12]"]
    assert own["curve"]["abs_gain"][-1] == pytest.approx(own["measures"]["abs_gain"], abs=1e-6)
    images = records.images(own["cell_id"])
    assert own["curve"]["srocc"][-1] == pytest.approx(stats.spearmanr(images.mos, images.adv_quality).statistic)
