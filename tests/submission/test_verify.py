"""`iqarena submit` and `iqarena verify`: honest submissions are as claimed, and false claims are detected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save
from typer.testing import CliRunner

from iqarena.bench.cli.app import app
from iqarena.bench.datasets import open_dataset
from iqarena.bench.errors import UserError
from iqarena.bench.inference.loading import load_model
from iqarena.bench.submission import bundle
from iqarena.bench.submission.sandbox import Limits
from iqarena.bench.submission.verify import verify
from tests.support.bundles import SOURCE, Bundles, repacked


def wrong(path: Path, root: Path, **more: Any) -> set[str]:
    """Return the names of the numbers that differ from the claim."""
    return {number.what for number in verify(path, root, **more).numbers if not number.ok}


# --- true claims


def test_honest_images_are_as_claimed(bundles: Bundles) -> None:
    verdict = verify(bundles.images, bundles.root)
    assert verdict.ok
    assert (verdict.kind, verdict.name) == ("images", "by hand")
    measured = {number.what: number.measured for number in verdict.numbers}
    assert measured["outside linf 0.007843"] == 0
    # the evaluator gives the same value for this model
    table = pd.read_csv(next((bundles.attack.parent / "runs").glob("summary.csv")))
    assert measured["srocc_clean"] == pytest.approx(table[table.defense == "jpeg"].srocc_clean.iloc[0], abs=1e-6)


def test_an_honest_attack_is_as_claimed_and_its_code_is_not_run(bundles: Bundles) -> None:
    verdict = verify(bundles.attack, bundles.root)
    assert verdict.ok
    assert not bundles.mark.exists()
    assert "was not run" in verdict.unchecked[0]
    assert {number.what for number in verdict.numbers} == {"outside linf 0.007843", "clean_quality", "adv_quality"}


def test_with_run_code_it_is_run_elsewhere_and_judged_here(bundles: Bundles) -> None:
    verdict = verify(bundles.attack, bundles.root, run_code=True)
    assert verdict.ok
    assert bundles.mark.exists()
    anew = {number.what: number for number in verdict.numbers if number.note == "run anew"}
    assert {"srocc_adv", "abs_gain", "outside linf 0.007843"} <= set(anew)
    assert max(abs(number.difference) for number in anew.values()) < 1e-6  # the same machine, the same seeds
    assert anew["abs_gain"].measured > 0.001


def test_an_honest_defense_is_as_claimed(bundles: Bundles) -> None:
    verdict = verify(bundles.defense, bundles.root)
    assert verdict.ok
    numbers = {number.what: number for number in verdict.numbers}
    assert abs(numbers["robust SROCC"].difference) < 1e-6
    assert verdict.checked[-1] == "attacked anew by fgsm"


def test_a_bundle_has_manifest_source_records_and_a_sample(bundles: Bundles) -> None:
    with bundle.open_bundle(bundles.attack) as opened:
        manifest, names = opened.manifest, set(opened.manifest.members)
        assert {name.partition("/")[0] for name in names} == {"source", "records", "images"}
        assert {Path(name).name for name in opened.names("records")} == {"images.csv", "record.json"}
        assert "class Mine" in opened.text("source/mine.py")
        assert len(opened.names("images")) == 2 * 4
    assert manifest.versions["torch"] == torch.__version__ or manifest.versions["torch"] in torch.__version__
    assert [claim.n_images for claim in manifest.claims] == [4, 4]


# --- false claims


def test_a_claim_that_was_made_better_is_found(bundles: Bundles, tmp_path: Path) -> None:
    def better(manifest: dict[str, Any]) -> None:
        manifest["claims"][0]["measures"]["abs_gain"] += 0.1

    for path in (bundles.attack, bundles.images, bundles.defense):
        assert "abs_gain" in wrong(repacked(path, tmp_path, better), bundles.root)


def test_rows_that_were_made_better_are_found(bundles: Bundles, tmp_path: Path) -> None:
    with bundle.open_bundle(bundles.images) as opened:
        name = next(name for name in opened.manifest.members if name.endswith("images.csv"))
        lines = opened.text(name).splitlines()
    values = lines[1].split(",")
    values[4] = str(float(values[4]) + 0.1)  # adv_quality
    text = "\n".join([lines[0], ",".join(values), *lines[2:]]) + "\n"
    assert {"adv_quality", "abs_gain"} <= wrong(
        repacked(bundles.images, tmp_path, **{"images.csv": text.encode()}), bundles.root
    )


def test_an_image_outside_of_the_threat_model_is_found(bundles: Bundles, tmp_path: Path) -> None:
    for path in (bundles.images, bundles.attack):
        with bundle.open_bundle(path) as opened:
            name = next(name for name in opened.manifest.members if name.endswith("00001.png"))
            image = opened.image(name, 32, 32)
        # three levels in one channel of one pixel, whichever way there is room
        clean = open_dataset("folder", bundles.root).image(1)
        image[0, 3, 3] = clean[0, 3, 3] + 3 if clean[0, 3, 3] < 128 else clean[0, 3, 3] - 3
        assert "outside linf 0.007843" in wrong(repacked(path, tmp_path, **{name: bundle.encode_png(image)}), bundles.root)


def test_other_images_than_those_scored_are_found(bundles: Bundles, tmp_path: Path) -> None:
    clean = bundle.encode_png(open_dataset("folder", bundles.root).image(0))
    with bundle.open_bundle(bundles.attack) as opened:
        name = next(name for name in opened.manifest.members if name.endswith("00000.png"))
    assert wrong(repacked(bundles.attack, tmp_path, **{name: clean}), bundles.root) == {"adv_quality"}


def test_other_weights_than_those_measured_are_found(bundles: Bundles, tmp_path: Path) -> None:
    state = {name: torch.flip(value, (0,)).contiguous() for name, value in load_model("cnniqa").state_dict().items()}
    path = repacked(bundles.defense, tmp_path, **{"weights.safetensors": save(state), "weights.yaml": b"recipe: {}\n"})
    assert {"clean_quality", "adv_quality"} <= wrong(path, bundles.root)


def test_code_that_fails_is_reported_in_a_line(bundles: Bundles, tmp_path: Path) -> None:
    text = SOURCE.format(mark=str(tmp_path / "mark"), deed="raise RuntimeError('no \x1b[2J')").encode()
    path = repacked(bundles.attack, tmp_path, **{"mine.py": text})
    with pytest.raises(UserError, match="its code failed: RuntimeError: no") as failure:
        verify(path, bundles.root, run_code=True, limits=Limits(seconds=600))
    assert "\n" not in str(failure.value)
    assert "\x1b" not in str(failure.value)


# --- the command line


def test_the_commands_tell_what_they_did(bundles: Bundles, tmp_path: Path) -> None:
    runner, root = CliRunner(), ["--root", str(bundles.root)]
    args = [
        "submit",
        "images",
        str(bundles.attack.parent / "attacked"),
        "-m",
        "cnniqa",
        "-d",
        "jpeg",
        "--dataset",
        "folder",
    ]
    done = runner.invoke(app, [*args, "--eps", "2/255", *root, "--out", str(tmp_path / "b.zip")])
    assert done.exit_code == 0, done.output
    assert "b.zip: images images, 1 cell," in done.output
    done = runner.invoke(app, ["verify", str(tmp_path / "b.zip"), *root])
    assert done.exit_code == 0, done.output
    assert "images images: as claimed" in done.output
    changed = repacked(tmp_path / "b.zip", tmp_path, lambda m: m["claims"][0]["measures"].update(srocc_adv=-1.0))
    done = runner.invoke(app, ["verify", str(changed), *root, "--json"])
    assert done.exit_code == 1
    output = json.loads(done.stdout)
    assert [line["what"] for line in output["lines"] if not line["ok"]] == ["srocc_adv", "srocc_adv"]
    done = runner.invoke(app, ["verify", str(changed), *root])
    assert "DIFFERS" in done.output
    done = runner.invoke(app, ["data", "export", "folder", str(tmp_path / "clean"), *root, "--limit", "2"])
    assert "2 images" in done.output
