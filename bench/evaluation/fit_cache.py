"""What fitted attacks have learnt: made on images of other references than those attacked, and kept under a hash."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from iqarena.attacks.base import Generators
from iqarena.attacks.fitted import Fit, FittedAttack
from iqarena.attacks.objective import Objective
from iqarena.bench.cells import Cell, digest
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.demo.dataset import Demo, cache_folder
from iqarena.bench.errors import UserError
from iqarena.bench.inference.target import Target, frozen
from iqarena.models.base import QualityModel

FOLDS = 2


@dataclass(frozen=True)
class CachedFit:
    """A fit, and what a record says of it: its hash, its images' references, what it cost."""

    fit: Fit
    facts: dict[str, Any]


class FitCache:
    """The fits for one image set: its references fall in two folds, and each fold is attacked with what the other taught.

    Images to learn from are drawn from the whole data set. A set of one reference learns from the demo images.
    """

    def __init__(self, dataset: ImageDataset, references: Sequence[str]) -> None:
        self.dataset = dataset
        distinct = sorted(set(references))
        self.folds = {reference: place % FOLDS for place, reference in enumerate(distinct)}
        if len(distinct) > 1:
            self.teachers: ImageDataset = dataset
        elif isinstance(dataset, Demo):
            raise UserError("an attack that is fitted needs images of two references")
        else:
            self.teachers = Demo()

    def images(self, fold: int, count: int) -> tuple[torch.Tensor, list[str]]:
        """Images (M, 3, h, w) in [0, 1] to learn from, cut to the smallest among them, and their references."""
        attacked = {reference for reference, own in self.folds.items() if own == fold}
        others = {s.reference_id for s in self.teachers.samples} - attacked
        indices = self.teachers.spread(count, others)
        images = [self.teachers.image(i) for i in indices]
        height, width = (min(p.shape[axis] for p in images) for axis in (1, 2))
        cut = [_center(image, height, width) for image in images]
        return torch.stack(cut).float() / 255, sorted({self.teachers.samples[i].reference_id for i in indices})

    def learn(self, attack: FittedAttack, cell: Cell, seen: QualityModel, ingredients: object, fold: int) -> CachedFit:
        """The fit for the images of a fold, made now or taken from the cache.

        Args:
            attack, cell: whose.
            seen: the model that the attacker sees.
            ingredients: hashes of code and weights that the fit depends on.
            fold: of the images to be attacked.
        """
        images, references = self.images(fold, attack.fit_images)
        taught = hashlib.sha256(images.numpy().tobytes()).hexdigest()
        name = digest(cell.crafting, ingredients, taught)
        path = cache_folder() / "fits" / f"{name[:32]}.safetensors"
        if path.is_file():
            try:
                with safe_open(path, framework="pt") as file:
                    fit = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
                    return CachedFit(fit, json.loads(file.metadata()["facts"]))
            except (SafetensorError, OSError, KeyError, TypeError, ValueError):
                path.unlink(missing_ok=True)  # a damaged file is a fit not made
        started = time.perf_counter()
        seed = int(name[:15], 16)
        with frozen(seen):
            images = images.to(next((value.device for value in seen.state_dict().values()), images.device))
            target = Target(seen, len(images), attack.access, draws=cell.draws, seed=seed, precision=cell.precision)
            clean = torch.cat([target.part(part).quality(images[part]) for part in torch.arange(len(images)).split(8)])
            objective = Objective(cell.objective, clean, float(clean.mean()), value=cell.target)
            fit = attack.fit(target, images, objective, cell.threat, Generators([seed]))
        facts = {
            "sha256": _hash(fit),
            "images": len(images),
            "references": references,
            "forwards": int(target.counts.forwards.sum()),
            "backwards": int(target.counts.backwards.sum()),
            "seconds": time.perf_counter() - started,
        }
        part_file = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {key: tensor.detach().cpu().contiguous() for key, tensor in fit.items()},
                part_file,
                {"facts": json.dumps(facts)},
            )
            part_file.replace(path)
        except OSError:
            part_file.unlink(missing_ok=True)  # without a cache it is learnt again the next time
        return CachedFit(fit, facts)


def _center(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def _hash(fit: Fit) -> str:
    found = hashlib.sha256()
    for name in sorted(fit):
        found.update(name.encode() + fit[name].detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
