"""Chains of filters: order, gradients, sizes, names, and invalid chains."""

from __future__ import annotations

import pytest
import torch

from iqarena import evaluate
from iqarena.bench.checks.run import check
from iqarena.bench.code_hash import source_hash
from iqarena.bench.errors import UserError
from iqarena.bench.registry import DEFENSES
from iqarena.defenses.chain import Chain
from iqarena.defenses.purification.base import PurifiedModel
from iqarena.defenses.purification.denoiser import Denoiser, ResidualDenoiser
from iqarena.defenses.purification.flip import Flip
from iqarena.defenses.purification.jpeg import JPEG, differentiable_jpeg, real_jpeg
from iqarena.defenses.purification.median_blur import MedianBlur
from iqarena.models.base import ModelInfo
from iqarena.models.zoo import save_weights
from tests.support.analytic_models import MeanModel
from tests.support.attack_runs import random_pixels


def test_links_act_from_left_to_right():
    images = random_pixels(2, 24, 40).float() / 255
    model = DEFENSES.build("resize+jpeg[quality=10]+flip").protect(MeanModel())
    assert isinstance(model, PurifiedModel)
    small = torch.nn.functional.interpolate(images, (12, 20), mode="bilinear", antialias=True)
    assert torch.equal(model.purify(images), real_jpeg(small, 10).flip(2, 3))
    other = DEFENSES.build("jpeg[quality=10]+resize+flip").protect(MeanModel())
    assert isinstance(other, PurifiedModel)
    assert not torch.equal(other.purify(images), model.purify(images))


def test_the_surrogate_is_the_chain_of_surrogates():
    images = random_pixels(1, 24, 40).float() / 255
    model = DEFENSES.build("jpeg[quality=10]+flip").surrogate(MeanModel())
    assert isinstance(model, PurifiedModel)
    assert torch.equal(model.purify(images), differentiable_jpeg(images, 10).flip(2, 3))
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((model.purify(leaf) ** 2).sum(), leaf)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.5


@pytest.mark.parametrize(
    ("spec", "stochastic", "surrogate", "moves"),
    [
        ("gaussian-blur+median-blur", False, "exact", False),
        ("gaussian-blur+jpeg", False, "smooth", False),
        ("bit-depth+jpeg+flip", False, "identity", True),
        ("jpeg+random-noise", True, "smooth", False),
        ("art:TotalVarMin+random-crop", True, "identity", True),
    ],
)
def test_a_chain_is_as_its_worst_link(spec, stochastic, surrogate, moves):
    chain = DEFENSES.build(spec)
    assert isinstance(chain, Chain)
    assert (chain.name, chain.kind) == (spec, "purification")
    assert (chain.stochastic, chain.surrogate_kind, chain.moves_pixels) == (stochastic, surrogate, moves)


def test_the_least_size_goes_through_all_links():
    model = MeanModel()
    model.info = ModelInfo("mean", min_size=20)
    assert DEFENSES.build("resize+resize").protect(model).info.min_size == 80
    assert DEFENSES.build("resize+random-crop[size=30]").protect(model).info.min_size == 60
    assert DEFENSES.build("random-crop[size=30]+gaussian-blur").protect(model).info.min_size == 30


def test_each_chain_has_code_and_weights_of_its_own(tmp_path):
    hashes = {source_hash(DEFENSES.build(spec)) for spec in ("jpeg+flip", "jpeg+median-blur", "flip+jpeg", "jpeg")}
    assert len(hashes) == 4
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        file = tmp_path / f"{seed}.safetensors"
        save_weights(ResidualDenoiser(), file, {})
        weights.append(Chain((Flip(), Denoiser(weights=str(file)))).protect(MeanModel()).info.weights_sha256)
    assert len({"", *weights}) == 3
    assert Chain((Flip(), JPEG())).protect(MeanModel()).info.weights_sha256 == ""


def test_networks_of_a_chain_are_parts_of_the_model(tmp_path):
    save_weights(ResidualDenoiser(), tmp_path / "d.safetensors", {})
    model = Chain((MedianBlur(), Denoiser(weights=str(tmp_path / "d.safetensors")))).protect(MeanModel())
    assert sum(weight.numel() for weight in model.parameters()) == sum(w.numel() for w in ResidualDenoiser().parameters())
    assert not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("jpeg+none", "only purifications can be chained, and none is none"),
        ("jpeg+cprl", "only purifications can be chained, and cprl is training"),
        ("jpeg+", "not of the form"),
        ("jpeg+flop", "unknown defense 'flop'; did you mean flip"),
        ("jpeg[quality=0]+flip", "outside 1 … 100"),
        ("jpeg+file:/a+b/no.py:X", "'file:/a\\+b/no.py:X': give it as file"),
    ],
)
def test_what_is_no_chain_is_one_line(spec, message):
    with pytest.raises(UserError, match=message) as error:
        DEFENSES.build(spec)
    assert "\n" not in str(error.value)


def test_a_plus_in_a_files_path_or_in_brackets_links_nothing(tmp_path):
    folder = tmp_path / "a+b"
    folder.mkdir()
    (folder / "my+own.py").write_text(
        "from iqarena.defenses.purification.flip import Flip\n\n\nclass Own(Flip):\n    name = 'own'\n"
        "    def purifier(self):\n"
        "        return lambda images: 1 - images\n"
    )
    own = DEFENSES.build(f"file:{folder}/my+own.py:Own")
    assert own.name == "own"
    chain = DEFENSES.build(f"jpeg+file:{folder}/my+own.py:Own+flip")
    assert isinstance(chain, Chain)
    assert chain.name == "jpeg+own+flip"
    denoiser = DEFENSES.build("denoiser[weights=a+b.safetensors]")
    assert isinstance(denoiser, Denoiser)
    assert denoiser.weights == "a+b.safetensors"


def test_a_chain_is_checked_like_any_defense():
    (report,) = check("jpeg[quality=30]+flip", ["cnniqa"], limit=0)
    assert (report.kind, report.name) == ("defense", "jpeg[quality=30]+flip")
    assert report.findings
    assert report.ok, report.failures()
    with pytest.raises(UserError, match="unknown defense 'flop'"):
        check("jpeg[quality=30]+flop")


def test_a_chain_is_evaluated_like_any_defense():
    report = evaluate(
        "resnet-iqa", ["fgsm"], defenses=["jpeg[quality=30]+flip"], settings=["oblivious", "adaptive"], limit=2
    )
    assert set(report.status) == {"ok"}
    assert set(report.defense) == {"jpeg[quality=30]+flip"}
    gains = report.set_index("setting").abs_gain
    assert gains["adaptive"] > gains["oblivious"]
