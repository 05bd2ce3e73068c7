"""`iqarena submit` and `iqarena verify`: what is claimed is measured anew, and who bends the truth is found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from typer.testing import CliRunner

from iqarena.bench.cli.app import app
from iqarena.bench.datasets import open_dataset
from iqarena.bench.errors import UserError
from iqarena.bench.executors import execute
from iqarena.bench.inference.loading import load_model
from iqarena.bench.results.store import Records
from iqarena.bench.submission import bundle
from iqarena.bench.submission.rescoring import checked_cell
from iqarena.bench.submission.sandbox import Limits
from iqarena.bench.submission.submit import export, submit_attack, submit_defense, submit_images
from iqarena.bench.submission.verify import verify
from iqarena.bench.suite import validated
from iqarena.models.zoo import save_weights
from tests.support.small_runs import four_images

SOURCE = '''
from pathlib import Path

from iqarena.attacks.base import Attack

Path({mark!r}).write_text("was imported")


class Mine(Attack):
    """One step along the gradient's sign."""

    name = "mine"
    access = "gradient"
    norms = ("linf",)
    paper = "of these tests"
    passes = (1, 1)

    def run(self, target, images, objective, threat, generator):
        {deed}
        _, gradient = target.quality_and_grad(images, objective.loss)
        return threat.snap(threat.project(images - threat.size * gradient.sign(), images), images)
'''


@dataclass
class Ground:
    """Four images with labels, and a bundle of each kind about them."""

    root: Path
    mark: Path
    attack: Path
    images: Path
    defense: Path


def quiet(*_: object) -> None:
    """Tells nobody."""


def source(folder: Path, mark: Path, deed: str = "pass") -> str:
    """The spec of an attack in a file, which leaves a mark where it is imported."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(SOURCE.format(mark=str(mark), deed=deed))
    return f"file:{folder / 'mine.py'}:Mine"


def attack_bundle(folder: Path, root: Path, spec: str, **more: Any) -> Path:
    suite = {"models": ["cnniqa"], "dataset": "folder", "defenses": ["none", "jpeg"], "attacks": [spec],
             "settings": ["adaptive"], **more}  # fmt: skip
    execute(validated(suite), root, Records(folder / "runs"), quiet)
    submit_attack(spec, folder / "runs", root, folder / "attack.zip", quiet)
    return folder / "attack.zip"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    root, mark = four_images(folder / "images"), folder / "mark"
    attack = attack_bundle(folder, root, source(folder / "own", mark))
    assert mark.exists()
    mark.unlink()

    export(open_dataset("folder", root), None, folder / "attacked")
    for place, file in enumerate(sorted((folder / "attacked").glob("*.png"))):
        pixels = np.array(Image.open(file)).astype(int)
        stream = np.random.default_rng(place)
        Image.fromarray((pixels + stream.integers(-2, 3, pixels.shape)).clip(0, 255).astype(np.uint8)).save(file)
    images = folder / "images.zip"
    submit_images(folder / "attacked", "cnniqa", "jpeg", "folder", "2/255", "linf", "by hand", root, images)

    model = load_model("cnniqa")
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.01)
    save_weights(model, folder / "weights" / "own.safetensors", {"recipe": {}})
    defense = folder / "defense.zip"
    changes = {"attacks": ["fgsm"], "dataset": "folder", "limit": 4}
    submit_defense(
        folder / "weights" / "own.safetensors", "cnniqa", "adversarial-training", "own-training", "quick", changes, root,
        folder / "submit", defense, quiet,
    )  # fmt: skip
    return Ground(root, mark, attack, images, defense)


def repacked(path: Path, to: Path, said: Callable[[dict[str, Any]], None] = quiet, **members: bytes | None) -> Path:
    """A bundle with other content, and hashes that fit; members are named by the end of their path, None leaves one out."""
    with bundle.opened(path) as found:
        manifest = json.loads(found.manifest.model_dump_json(exclude={"members"}))
        content = {name: found.read(name) for name in found.manifest.members}
    for end, changed in members.items():
        name = next((name for name in content if name.endswith(end)), end)
        content.pop(name, None)
        if changed is not None:
            content[name] = changed
    said(manifest)
    bundle.write(to / "changed.zip", manifest, content)
    return to / "changed.zip"


def wrong(path: Path, root: Path, **more: Any) -> set[str]:
    """What differs from the claim."""
    return {line.what for line in verify(path, root, **more).lines if not line.ok}


# --- honest ones


def test_honest_images_are_as_claimed(ground: Ground) -> None:
    verdict = verify(ground.images, ground.root)
    assert verdict.ok
    assert (verdict.kind, verdict.name) == ("images", "by hand")
    measured = {line.what: line.measured for line in verdict.lines}
    assert measured["outside linf 0.007843"] == 0
    # what the evaluator makes of the same model says the same
    table = pd.read_csv(next((ground.attack.parent / "runs").glob("summary.csv")))
    assert measured["srocc_clean"] == pytest.approx(table[table.defense == "jpeg"].srocc_clean.iloc[0], abs=1e-6)


def test_an_honest_attack_is_as_claimed_and_its_code_is_not_run(ground: Ground) -> None:
    verdict = verify(ground.attack, ground.root)
    assert verdict.ok
    assert not ground.mark.exists()
    assert "was not run" in verdict.open[0]
    assert {line.what for line in verdict.lines} == {"outside linf 0.007843", "clean_quality", "adv_quality"}


def test_with_run_code_it_is_run_elsewhere_and_judged_here(ground: Ground) -> None:
    verdict = verify(ground.attack, ground.root, run_code=True)
    assert verdict.ok
    assert ground.mark.exists()
    anew = {line.what: line for line in verdict.lines if line.note == "run anew"}
    assert {"srocc_adv", "abs_gain", "outside linf 0.007843"} <= set(anew)
    assert max(abs(line.difference) for line in anew.values()) < 1e-6  # the same machine, the same seeds
    assert anew["abs_gain"].measured > 0.001


def test_an_honest_defense_is_as_claimed(ground: Ground) -> None:
    verdict = verify(ground.defense, ground.root)
    assert verdict.ok
    lines = {line.what: line for line in verdict.lines}
    assert abs(lines["robust SROCC"].difference) < 1e-6
    assert verdict.looked[-1] == "attacked anew by fgsm"


def test_a_bundle_has_manifest_source_records_and_a_sample(ground: Ground) -> None:
    with bundle.opened(ground.attack) as found:
        manifest, names = found.manifest, set(found.manifest.members)
        assert {name.partition("/")[0] for name in names} == {"source", "records", "images"}
        assert {Path(name).name for name in found.names("records")} == {"images.csv", "record.json"}
        assert "class Mine" in found.text("source/mine.py")
        assert len(found.names("images")) == 2 * 4
    assert manifest.versions["torch"] == torch.__version__ or manifest.versions["torch"] in torch.__version__
    assert [claim.n_images for claim in manifest.claims] == [4, 4]


# --- dishonest ones


def test_a_claim_that_was_made_better_is_found(ground: Ground, tmp_path: Path) -> None:
    def better(manifest: dict[str, Any]) -> None:
        manifest["claims"][0]["measures"]["abs_gain"] += 0.1

    for path in (ground.attack, ground.images, ground.defense):
        assert "abs_gain" in wrong(repacked(path, tmp_path, better), ground.root)


def test_rows_that_were_made_better_are_found(ground: Ground, tmp_path: Path) -> None:
    with bundle.opened(ground.images) as found:
        name = next(name for name in found.manifest.members if name.endswith("images.csv"))
        lines = found.text(name).splitlines()
    values = lines[1].split(",")
    values[4] = str(float(values[4]) + 0.1)  # adv_quality
    text = "\n".join([lines[0], ",".join(values), *lines[2:]]) + "\n"
    assert {"adv_quality", "abs_gain"} <= wrong(
        repacked(ground.images, tmp_path, **{"images.csv": text.encode()}), ground.root
    )


def test_an_image_outside_of_the_threat_model_is_found(ground: Ground, tmp_path: Path) -> None:
    for path in (ground.images, ground.attack):
        with bundle.opened(path) as found:
            name = next(name for name in found.manifest.members if name.endswith("00001.png"))
            image = found.image(name, 32, 32)
        # three levels in one channel of one pixel, whichever way there is room
        clean = open_dataset("folder", ground.root).image(1)
        image[0, 3, 3] = clean[0, 3, 3] + 3 if clean[0, 3, 3] < 128 else clean[0, 3, 3] - 3
        assert "outside linf 0.007843" in wrong(repacked(path, tmp_path, **{name: bundle.encoded(image)}), ground.root)


def test_other_images_than_those_scored_are_found(ground: Ground, tmp_path: Path) -> None:
    clean = bundle.encoded(open_dataset("folder", ground.root).image(0))
    with bundle.opened(ground.attack) as found:
        name = next(name for name in found.manifest.members if name.endswith("00000.png"))
    assert wrong(repacked(ground.attack, tmp_path, **{name: clean}), ground.root) == {"adv_quality"}


def test_other_weights_than_those_measured_are_found(ground: Ground, tmp_path: Path) -> None:
    state = {name: torch.flip(value, (0,)).contiguous() for name, value in load_model("cnniqa").state_dict().items()}
    path = repacked(ground.defense, tmp_path, **{"weights.safetensors": save(state), "weights.yaml": b"recipe: {}\n"})
    assert {"clean_quality", "adv_quality"} <= wrong(path, ground.root)


def test_code_that_fails_is_told_in_a_line(ground: Ground, tmp_path: Path) -> None:
    text = SOURCE.format(mark=str(tmp_path / "mark"), deed="raise RuntimeError('no \x1b[2J')").encode()
    path = repacked(ground.attack, tmp_path, **{"mine.py": text})
    with pytest.raises(UserError, match="its code failed: RuntimeError: no") as failure:
        verify(path, ground.root, run_code=True, limits=Limits(seconds=600))
    assert "\n" not in str(failure.value)
    assert "\x1b" not in str(failure.value)


# --- refused ones


def cell_with(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["claims"][0]["cell"].update(fields)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (cell_with(model="file:/tmp/evil.py:Evil"), "only what is listed"),
        (cell_with(model="torchscript:evil.pt"), "only what is listed"),
        (cell_with(model="cnniqa[weights=/tmp/evil.pkl]"), "only what is listed"),
        (cell_with(model="cnniqa[weights=evil.pkl]"), "only what is listed"),
        (cell_with(model="no-such-model"), "unknown model"),
        (cell_with(defense="file:evil.py:Evil"), "only what is listed"),
        (cell_with(defense="jpeg+file:evil.py:Evil"), "only what is listed"),
        (cell_with(defense="adversarial-training[weights=evil.pt]"), "only what is listed"),
        (cell_with(source="file:evil.py:Evil", setting="transfer"), "only what is listed"),
        (cell_with(source="cnniqa", setting="transfer"), "no cell: a source is the other model"),
        (cell_with(source="brisque"), "no cell: a source is the other model"),
        (cell_with(setting="transfer"), "no cell: a source is the other model"),
        (cell_with(model="x[a=" + "[" * 100_000), "is no name of letters"),
        (cell_with(dataset="../../etc"), "only what is listed"),
        (cell_with(dataset="nowhere"), "unknown data set"),
        (cell_with(eps=7), "no cell"),
        (cell_with(norm="l7"), "no cell"),
        (cell_with(draws=10**9), "no cell"),
        (cell_with(virus=1), "no cell"),
        (lambda m: m["claims"][0].update(fingerprint="another"), "not those of the claim"),
        (lambda m: m["claims"][0].update(n_images=5), "5 images are claimed"),
        (lambda m: m["claims"][0].update(n_images=3), "other images or labels|has more images"),
        (lambda m: m["claims"].append(m["claims"][0]), "claimed twice"),
        (lambda m: m["claims"][0].update(cell_id="f" * 16), "is missing"),
    ],
)
def test_a_claim_about_what_is_not_listed_is_refused(said: Any, told: str, ground: Ground, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told) as refusal:
        verify(repacked(ground.images, tmp_path, said), ground.root)
    assert "\n" not in str(refusal.value)


def test_qualities_that_no_model_can_give_are_refused(ground: Ground, tmp_path: Path) -> None:
    with bundle.opened(ground.images) as found:
        text = found.text(next(name for name in found.manifest.members if name.endswith("images.csv")))
    header, first, *others = text.splitlines()
    values = first.split(",")
    values[header.split(",").index("adv_quality")] = "1e308"
    path = repacked(ground.images, tmp_path, **{"images.csv": "\n".join([header, ",".join(values), *others]).encode()})
    with pytest.raises(UserError, match="holds qualities that no float32 score can be"):
        verify(path, ground.root)


def test_an_attack_may_only_bring_itself(ground: Ground, tmp_path: Path) -> None:
    path = repacked(ground.attack, tmp_path, cell_with(attack="file:other.py:Other"))
    with pytest.raises(UserError, match="only what is listed"):
        verify(path, ground.root)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"00003.png": None}, "has 3 of 4 images"),
        ({"00000.png": None}, "not numbered from 00000.png on"),
        ({"00000.png": b"GIF89a"}, "not a PNG file"),
        ({"00000.png": bundle.encoded(torch.zeros(3, 64, 64, dtype=torch.uint8))}, "is 64×64, and the clean image 32×32"),
        ({"images.csv": b""}, "is no images.csv"),
        ({"images.csv": b"a,b\n1,2\n"}, "is no images.csv"),
        ({"images.csv": b"\xff\xfe"}, "is not UTF-8"),
        ({"images.csv": None}, "is missing"),
    ],
)
def test_members_that_are_not_what_they_should_be_are_refused(members, told: str, ground: Ground, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told) as refusal:
        verify(repacked(ground.images, tmp_path, **members), ground.root)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("members", "said", "told"),
    [
        ({"weights.safetensors": b"\x00" * 100}, quiet, "is not the .* of its card"),
        ({"weights.safetensors": b"\x00" * 100, "weights.yaml": b""}, quiet, "not a safetensors file"),
        ({"weights.safetensors": b"\0\0\0\xff\0\0\0\0{", "weights.yaml": b""}, quiet, "not a safetensors file"),
        ({"weights.safetensors": save({"x": torch.zeros(2)}), "weights.yaml": b""}, quiet, "not the weights of"),
        ({"weights.yaml": b"- [broken"}, quiet, "not a card"),
        ({"weights.yaml": None}, quiet, "is missing"),
        ({}, lambda m: m["plugin"].update(recipe="jpeg"), "is no training recipe"),
        ({}, lambda m: m["plugin"].update(recipe="file:evil.py:Evil"), "only what is listed"),
        ({}, lambda m: m["plugin"].update(file="source/mine.py"), "comes as weights.safetensors"),
        ({}, lambda m: m["plugin"].update(model="resnet-iqa"), "of another model or defense"),
        ({}, lambda m: (m.update(name="jpeg"), [c["cell"].update(defense="jpeg") for c in m["claims"]]), "taken"),
    ],
)
def test_weights_that_are_not_what_they_should_be_are_refused(members, said, told, ground: Ground, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told) as refusal:
        verify(repacked(ground.defense, tmp_path, said, **members), ground.root)
    assert "\n" not in str(refusal.value)


# --- submitting


def test_images_that_will_not_do_are_not_packed(ground: Ground, tmp_path: Path) -> None:
    def told(**changed: Any) -> str:
        given = {"folder": tmp_path / "a", "model": "cnniqa", "defense": "none", "dataset": "folder", "eps": "2/255"}
        with pytest.raises(UserError) as refusal:
            submit_images(**given | changed, norm="linf", name="x", root=ground.root, out=tmp_path / "x.zip")
        assert not (tmp_path / "x.zip").exists()
        return str(refusal.value)

    assert "no such folder" in told()
    (tmp_path / "a").mkdir()
    assert "at least 2 images" in told()
    assert export(open_dataset("folder", ground.root), 3, tmp_path / "a") == 3
    assert "no name of letters" not in told(eps="nonsense")
    assert "--eps" in told(eps="nonsense")
    assert "only what is listed" in told(model="file:m.py:M")
    first = min((tmp_path / "a").glob("*.png"))
    with pytest.raises(UserError, match="choose another --out"):
        submit_images(tmp_path / "a", "cnniqa", "none", "folder", "2/255", "linf", "x", ground.root, Path())
    hidden = first.rename(tmp_path / "hidden")
    assert f"{first}: is missing; the others are of the images that `iqarena data export folder --limit 3`" in told()
    hidden.rename(first)
    shutil.copy(first, tmp_path / "a" / "another.png")
    assert "another.png: not one of the 4 images" in told()
    (tmp_path / "a" / "another.png").unlink()
    Image.new("RGB", (32, 32)).save(first)
    assert "1 of 3 images are outside linf ≤ 2/255" in told()
    first.write_bytes(b"nonsense")
    assert "not a PNG file" in told()


def test_an_attack_without_records_or_in_several_files_is_not_packed(ground: Ground, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no records of pgd; first iqarena run --attack pgd"):
        submit_attack("pgd", ground.attack.parent / "runs", ground.root, tmp_path / "x.zip", quiet)
    with pytest.raises(UserError, match="by its name, without parameters"):
        submit_attack("pgd[steps=3]", ground.attack.parent / "runs", ground.root, tmp_path / "x.zip", quiet)
    with pytest.raises(UserError, match="unknown attack"):
        submit_attack("pdg", ground.attack.parent / "runs", ground.root, tmp_path / "x.zip", quiet)
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.parametrize(
    ("file", "told"),
    [("own.pt", "weights come as .safetensors"), ("none.safetensors", "cannot be read"),
     ("junk.safetensors", "not a safetensors file"), ("own.safetensors", "have no card")],
)  # fmt: skip
def test_weights_that_will_not_do_are_not_packed(file: str, told: str, ground: Ground, tmp_path: Path) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"\x80\x04junk")
    shutil.copy(ground.defense.parent / "weights" / "own.safetensors", tmp_path)
    with pytest.raises(UserError, match=told):
        submit_defense(
            tmp_path / file, "cnniqa", "adversarial-training", "own", "quick", {}, ground.root, tmp_path / "r",
            tmp_path / "x.zip", quiet,
        )  # fmt: skip


def test_a_cell_of_ones_own_is_told_from_a_listed_one() -> None:
    facts = {"dataset": "demo", "model": "cnniqa", "defense": "none", "attack": "my own", "objective": "away",
             "norm": "linf", "eps": 2 / 255, "queries": None, "setting": "adaptive", "seed": 0, "draws": 8}  # fmt: skip
    assert checked_cell(facts, {"attack": "my own"}).attack == "my own"
    with pytest.raises(UserError, match="unknown attack"):
        checked_cell(facts)


def test_a_cell_behind_a_chain_is_one_if_all_its_links_are_listed() -> None:
    facts = {"dataset": "demo", "model": "cnniqa", "attack": "pgd", "objective": "away", "norm": "linf",
             "eps": 2 / 255, "queries": None, "setting": "adaptive", "seed": 0, "draws": 8}  # fmt: skip
    assert checked_cell({**facts, "defense": "jpeg[quality=30]+flip"}).defense == "jpeg[quality=30]+flip"
    for defense in ("jpeg[quality=30]+nothing", "jpeg[quality=30]+denoiser[weights=mine.pt]"):
        with pytest.raises(UserError, match=r"unknown defense|only what is listed"):
            checked_cell({**facts, "defense": defense})


# --- the command line


def test_the_commands_tell_what_they_did(ground: Ground, tmp_path: Path) -> None:
    runner, root = CliRunner(), ["--root", str(ground.root)]
    words = ["submit", "images", str(ground.attack.parent / "attacked"), "-m", "cnniqa", "-d", "jpeg", "--dataset", "folder"]
    done = runner.invoke(app, [*words, "--eps", "2/255", *root, "--out", str(tmp_path / "b.zip")])
    assert done.exit_code == 0, done.output
    assert "b.zip: images images, 1 cell," in done.output
    done = runner.invoke(app, ["verify", str(tmp_path / "b.zip"), *root])
    assert done.exit_code == 0, done.output
    assert "images images: as claimed" in done.output
    changed = repacked(tmp_path / "b.zip", tmp_path, lambda m: m["claims"][0]["measures"].update(srocc_adv=-1.0))
    done = runner.invoke(app, ["verify", str(changed), *root, "--json"])
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert [line["what"] for line in said["lines"] if not line["ok"]] == ["srocc_adv", "srocc_adv"]
    done = runner.invoke(app, ["verify", str(changed), *root])
    assert "DIFFERS" in done.output
    done = runner.invoke(app, ["data", "export", "folder", str(tmp_path / "clean"), *root, "--limit", "2"])
    assert "2 images" in done.output
