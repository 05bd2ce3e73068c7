"""Defenses under attack: certificates and filters in the records, adaptive attackers, and a fake that is detected."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from iqarena.attacks.threat import Threat
from iqarena.bench.cells import canonical, expand
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.evaluation.certification import RADIUS
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.evaluation.filter_fidelity import filter_fidelity
from iqarena.bench.executors import local
from iqarena.bench.inference.loading import load_model
from iqarena.bench.inference.target import frozen
from iqarena.bench.registry import ATTACKS, DEFENSES
from iqarena.bench.results.columns import CERTIFICATE_COLUMNS, SUMMARY_COLUMNS
from iqarena.bench.results.store import Records
from iqarena.bench.suite import validated
from iqarena.defenses.purification.base import Purification, PurifiedModel
from iqarena.models.base import QualityModel
from tests.support.attack_runs import craft, random_pixels
from tests.support.planted import SIDE, Case, Defended, Linear, flags_of, planted_images


def run(out: Path, defense: str, dataset: Folder, models: dict[str, QualityModel], **suite: object) -> Records:
    """Evaluate one defense under one attack."""
    plan = {"dataset": "folder", "models": list(models), "defenses": [defense], "settings": ["adaptive"], "batch": 8}
    records = Records(out)
    evaluator = Evaluator(dataset, None, 8, models)
    local.run(evaluator, expand(validated(plan | suite)), records, report=lambda *_: None)
    return records


def only(records: Records) -> dict[str, object]:
    (record,) = records.all()
    assert record["status"] == "ok", record["errors"]
    return record


# --- certificates


def test_the_record_of_a_certified_defense_holds_its_certificates(tmp_path):
    spec = "median-smoothing[draws=5,certify_draws=200,confidence=0.9,batch=200]"
    dataset = planted_images(tmp_path / "images")
    records = run(tmp_path / "out", spec, dataset, {"linear": Linear()}, attacks=["fgsm", "random-noise"])
    both = list(records.all())
    assert [record["status"] for record in both] == ["ok", "ok"]
    first, second = (record["certificate"] for record in both)
    assert first == second  # of the defended model, whatever attacks it
    assert (first["radius"], first["confidence"]) == (RADIUS, 0.9)
    images = records.images(both[0]["cell_id"])
    lower, upper = (np.array(first[end]) for end in ("lower", "upper"))
    assert ((lower < images.clean_quality) & (images.clean_quality < upper)).all()
    assert first["seconds"] > 0
    # a linear score under noise is normal: no more than half of the draws' deviation, whose share grows by radius / sigma
    measures = both[0]["measures"]
    assert measures["certificate_width"] == pytest.approx(float((upper - lower).mean()))
    assert -1 <= measures["certified_srocc"] <= measures["srocc_clean"]
    assert measures["certificates_left"] == 0
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert list(table.columns[-len(CERTIFICATE_COLUMNS) :]) == CERTIFICATE_COLUMNS == SUMMARY_COLUMNS[-5:]
    assert table.certified_srocc.notna().all()


def test_a_threat_in_l2_is_the_radius_and_a_certificate_that_cannot_be_had_is_a_reason(tmp_path):
    dataset, spec = planted_images(tmp_path / "images"), "median-smoothing[draws=5,certify_draws=50,confidence=0.9,batch=50]"
    record = only(
        run(
            tmp_path / "out",
            spec,
            dataset,
            {"linear": Linear()},
            attacks=["random-noise"],
            threats=[{"norm": "l2", "eps": 1.0}],
        )
    )
    assert record["certificate"]["radius"] == 1.0
    assert "50 draws cannot certify a radius of 1" in record["certificate"]["reason"]
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert table[CERTIFICATE_COLUMNS].isna().all(axis=None)
    json.loads((tmp_path / "out" / "cells" / record["cell_id"] / "record.json").read_text())


def test_other_defenses_certify_nothing(tmp_path):
    record = only(
        run(tmp_path / "out", "flip", planted_images(tmp_path / "p"), {"linear": Linear()}, attacks=["random-noise"])
    )
    assert "certificate" not in record


# --- the effect of filters on images


def test_likeness_is_scikit_images_after_the_same_transform(natural):
    clean = torch.from_numpy(natural.transpose(2, 0, 1).copy())
    attacked = (clean.int() + torch.randint(-3, 4, clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255)
    attacked = attacked.to(torch.uint8)
    pairs = [(clean, attacked)]
    flip = DEFENSES.build("flip").protect(load_model("resnet-iqa"))
    assert isinstance(flip, PurifiedModel)
    result = filter_fidelity(flip, True, pairs, [0])
    difference = (clean.double() - attacked.double()) / 255
    assert result["psnr_same_transform"] == pytest.approx(-10 * math.log10(float(difference.square().mean())))
    luma = np.tensordot([0.299, 0.587, 0.114], np.stack([clean.numpy(), attacked.numpy()]).astype(float) / 255, (0, 1))
    expected = structural_similarity(*luma, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert result["ssim_same_transform"] == pytest.approx(expected, abs=1e-6)
    # an image upside down is not to be compared with the clean one
    assert all(math.isnan(result[name]) for name in ("psnr_clean", "ssim_clean", "psnr_attacked", "ssim_attacked"))


def test_likeness_draws_the_same_for_both_images_and_leaves_equal_ones_out():
    one = random_pixels(1, 32, 32)[0]
    noise = DEFENSES.build("random-noise[sigma=0.1]").protect(load_model("resnet-iqa"))
    result = filter_fidelity(noise, False, [(one, one)], [3])
    assert math.isnan(result["psnr_same_transform"])  # infinite: the same draw
    assert result["ssim_same_transform"] == pytest.approx(1)
    # σ = 0.1, clipped at the ends of the range: 20 dB and a bit
    assert 20 < result["psnr_clean"] < 22
    assert result["psnr_attacked"] == result["psnr_clean"]
    small = random_pixels(1, 8, 8)[0]
    assert math.isnan(filter_fidelity(noise, False, [(small, small)], [3])["ssim_clean"])


def test_the_record_of_a_filter_says_what_it_makes_of_images(tmp_path):
    dataset = planted_images(tmp_path / "p")
    blurred = only(run(tmp_path / "a", "gaussian-blur", dataset, {"linear": Linear()}, attacks=["fgsm"]))["purified"]
    assert blurred["psnr_same_transform"] > blurred["psnr_clean"] > 0
    turned = only(run(tmp_path / "b", "jpeg+flip", dataset, {"linear": Linear()}, attacks=["fgsm"]))["purified"]
    assert turned["psnr_clean"] is turned["ssim_attacked"] is None
    assert turned["psnr_same_transform"] > 0


# --- adaptive attackers of filters

FILTERS = (
    "art:FeatureSqueezing", "art:GaussianAugmentation", "art:JpegCompression", "art:SpatialSmoothing", "bit-depth",
    "color-quantization", "denoiser", "fcn-filter", "flip", "gaussian-blur", "jpeg", "median-blur", "random-crop[size=72]",
    "random-noise", "random-rotate", "resize", "tv-denoise", "unsharp", "upscale", "wavelet-denoise", "jpeg+flip",
)  # fmt: skip
TOLERANCE = 0.05
"""Tolerance in quality units, for shifts up to 0.8: four images are few, and some attacks saturate in both settings."""


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    demo = Demo()
    return torch.stack([demo.image(i)[:, 40:136, 40:136] for i in (0, 300, 500, 900)])


@pytest.fixture(scope="module")
def bare(crops: torch.Tensor) -> tuple[QualityModel, torch.Tensor]:
    """The undefended model, and the attacked images of an attacker who knows only that model."""
    model = load_model("resnet-iqa")
    return model, craft(ATTACKS.build("pgd[steps=6]"), model, crops, "away", Threat(size=4 / 255))[1].pixels


@pytest.mark.parametrize("spec", FILTERS)
def test_who_knows_of_a_filter_is_at_least_as_strong(spec, crops, bare):
    """Compare the mean |shift| of the deployed quality under `pgd`, averaged over images and, if random, over draws."""
    model, ignorant = bare
    defense = DEFENSES.build(spec)
    assert isinstance(defense, Purification)
    deployed, surrogate = defense.protect(model), defense.surrogate(model)
    torch.manual_seed(0)
    knowing = craft(ATTACKS.build("pgd[steps=6]"), surrogate, crops, "away", Threat(size=4 / 255))[1].pixels
    turns = 8 if defense.stochastic else 1

    def quality(pixels: torch.Tensor) -> torch.Tensor:
        with frozen(deployed), torch.inference_mode():
            torch.manual_seed(1)
            return torch.stack([deployed.quality(pixels.float() / 255) for _ in range(turns)]).mean(0)

    clean = quality(crops)
    shifts = [float((quality(pixels) - clean).abs().mean()) for pixels in (knowing, ignorant)]
    assert shifts[0] >= shifts[1] - TOLERANCE, shifts
    assert shifts[0] > 0.02, shifts


# --- a fake


class Fake(Defended):
    """A fake defense that adds noise, rounds, and turns the image upside down: it hides the gradient and defends nothing."""

    def __init__(self, model: QualityModel) -> None:
        super().__init__(model)
        self.noise = 4 / 255 * torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        noisy = ((images.flip(2) + self.noise) * 255).round() / 255
        scores: torch.Tensor = self.model(noisy) + 0 * images.sum(dim=(1, 2, 3))
        return scores


def mirrored(root: Path) -> Folder:
    """Write labelled planted images whose lower half mirrors the upper, so that they are the same upside down."""
    planted_images(root)
    table, model = pd.read_csv(root / "labels.csv"), Linear()
    for row, name in enumerate(table.image):
        with Image.open(root / name) as opened:
            pixels = np.array(opened)
        pixels[SIDE // 2 :] = pixels[: SIDE // 2][::-1]
        Image.fromarray(pixels).save(root / name)
        with torch.no_grad():
            table.loc[row, "mos"] = float(model(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255).clamp(0, 1))
    table.to_csv(root / "labels.csv", index=False)
    return Folder(root)


def test_a_fake_that_hides_gradients_is_caught(tmp_path):
    """The fake resists oblivious and gradient attacks; a score-based search breaks it, and it is flagged."""
    dataset, search = mirrored(tmp_path / "images"), canonical("attack", "square[queries=1000]")
    flags, measures = {}, {}
    for name, cls in (("fake", Fake), ("bare", None)):
        case = Case(name, None, cls, attacks=("pgd", search))
        flags[name] = {flag.name for flag in flags_of(case, dataset, tmp_path / name)}
        for record in Records(tmp_path / name).all():
            measures[name, record["cell"]["attack"], record["cell"]["setting"]] = record["measures"]
    gains = {key: values["abs_gain"] for key, values in measures.items()}
    plain = gains["bare", "pgd", "oblivious"]
    # it costs nothing and looks as if it defended well
    assert measures["fake", "pgd", "oblivious"]["srocc_clean"] > 0.98
    assert gains["fake", "pgd", "oblivious"] < 0.5 * plain
    assert gains["fake", "pgd", "adaptive"] < 0.1 * plain
    # and then a search gets as far as it does without the fake
    assert gains["fake", search, "adaptive"] == pytest.approx(gains["bare", search, "adaptive"], rel=0.2)
    assert gains["fake", search, "adaptive"] > 2 * max(
        gains["fake", "pgd", setting] for setting in ("oblivious", "adaptive")
    )
    assert {"zero-gradient", "black-box-wins"} <= flags["fake"]
    assert not flags["bare"]
