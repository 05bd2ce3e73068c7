"""Submission bundles of each kind about four images, and changed copies of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from iqarena.bench.datasets import open_dataset
from iqarena.bench.executors import execute
from iqarena.bench.inference.loading import load_model
from iqarena.bench.results.store import Records
from iqarena.bench.submission import bundle
from iqarena.bench.submission.submit import export, submit_attack, submit_defense, submit_images
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
class Bundles:
    """A bundle of each kind about four labelled images, their folder, and a file that the attack's code creates."""

    root: Path
    mark: Path
    attack: Path
    images: Path
    defense: Path


def quiet(*_: object) -> None:
    """Ignore all arguments."""


def source(folder: Path, mark: Path, deed: str = "pass") -> str:
    """Write an attack into a file, which creates the file `mark` when it is imported; return its spec."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(SOURCE.format(mark=str(mark), deed=deed))
    return f"file:{folder / 'mine.py'}:Mine"


def attack_bundle(folder: Path, root: Path, spec: str, **more: Any) -> Path:
    """Run an attack on four images and pack it."""
    suite = {
        "models": ["cnniqa"],
        "dataset": "folder",
        "defenses": ["none", "jpeg"],
        "attacks": [spec],
        "settings": ["adaptive"],
        **more,
    }
    execute(validated(suite), root, Records(folder / "runs"), quiet)
    submit_attack(spec, folder / "runs", root, folder / "attack.zip", quiet)
    return folder / "attack.zip"


def make_bundles(folder: Path) -> Bundles:
    """Pack a bundle of each kind about four images; all claims are true."""
    root, mark = four_images(folder / "images"), folder / "mark"
    attack = attack_bundle(folder, root, source(folder / "own", mark))
    assert mark.exists()
    mark.unlink()

    export(open_dataset("folder", root), None, folder / "attacked")
    for seed, file in enumerate(sorted((folder / "attacked").glob("*.png"))):
        pixels = np.array(Image.open(file)).astype(int)
        stream = np.random.default_rng(seed)
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
        folder / "weights" / "own.safetensors",
        "cnniqa",
        "adversarial-training",
        "own-training",
        "quick",
        changes,
        root,
        folder / "submit",
        defense,
        quiet,
    )
    return Bundles(root, mark, attack, images, defense)


def repacked(path: Path, to: Path, change: Callable[[dict[str, Any]], None] = quiet, **members: bytes | None) -> Path:
    """Write a copy of a bundle with changed content and matching hashes.

    Args:
        path: the bundle.
        to: folder of the copy.
        change: changes the manifest in place.
        members: new contents by the end of a member's path; None removes the member.
    """
    with bundle.open_bundle(path) as opened:
        manifest = json.loads(opened.manifest.model_dump_json(exclude={"members"}))
        content = {name: opened.read(name) for name in opened.manifest.members}
    for end, replacement in members.items():
        name = next((name for name in content if name.endswith(end)), end)
        content.pop(name, None)
        if replacement is not None:
            content[name] = replacement
    change(manifest)
    bundle.write(to / "changed.zip", manifest, content)
    return to / "changed.zip"
