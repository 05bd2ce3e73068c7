"""Fits of fitted attacks: computed on images of other references than those attacked, and cached on disk under a hash."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
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
from iqarena.bench.inference.identity import Answers, same
from iqarena.bench.inference.isolation import watched
from iqarena.bench.inference.target import Target, frozen
from iqarena.models.base import QualityModel

FOLDS = 2


@dataclass(frozen=True)
class CachedFit:
    """A fit, and its description for the record: its hash, the references of its images, its cost."""

    fit: Fit
    facts: dict[str, Any]


class FitCache:
    """The fits for one image set, whose references are split into two folds: no fit uses a reference that it attacks.

    Images to fit on are drawn from the whole data set except the attacked references. For an image set with only one
    reference they are drawn from the demo images.

    Args:
        dataset: the data set.
        references: of the images that are attacked.
        answers: returns what a model answers on the probes, where more than its code and weights has to identify it.
    """

    def __init__(
        self, dataset: ImageDataset, references: Sequence[str], answers: Callable[[str], Answers | None] = lambda name: None
    ) -> None:
        self.dataset, self._answers = dataset, answers
        distinct = sorted(set(references))
        self.folds = {reference: index % FOLDS for index, reference in enumerate(distinct)}
        if len(distinct) > 1:
            self.source: ImageDataset = dataset
        elif isinstance(dataset, Demo):
            raise UserError("an attack that is fitted needs images of two references")
        else:
            self.source = Demo()

    def images(self, fold: int, count: int) -> tuple[torch.Tensor, list[str]]:
        """Return the images (M, 3, h, w) in [0, 1] to fit on, cropped to the smallest of them, and their references."""
        attacked = {reference for reference, its_fold in self.folds.items() if its_fold == fold}
        others = {s.reference_id for s in self.source.samples} - attacked
        indices = self.source.spread(count, others)
        images = [self.source.image(i) for i in indices]
        height, width = (min(image.shape[axis] for image in images) for axis in (1, 2))
        cropped = [_center_crop(image, height, width) for image in images]
        return torch.stack(cropped).float() / 255, sorted({self.source.samples[i].reference_id for i in indices})

    def fit(self, attack: FittedAttack, cell: Cell, seen: QualityModel, ingredients: object, fold: int) -> CachedFit:
        """Fit an attack for the images of a fold, or load the fit from the cache.

        Args:
            attack, cell: the attack and its cell.
            seen: the model that the attacker sees.
            ingredients: hashes of code and weights that the fit depends on.
            fold: fold of the images to be attacked.
        """
        images, references = self.images(fold, attack.fit_images)
        images_hash = hashlib.sha256(images.numpy().tobytes()).hexdigest()
        name, answers = digest(cell.crafting, ingredients, images_hash), self._answers(cell.crafted_on[0])
        path = cache_folder() / "fits" / f"{name[:32]}.safetensors"
        if path.is_file():
            try:
                with safe_open(path, framework="pt") as file:
                    fit = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is not a mapping
                    facts, earlier = (json.loads(file.metadata()[key]) for key in ("facts", "answers"))
                if answers is None or same(answers, earlier):
                    return CachedFit(fit, facts)
            except (SafetensorError, OSError, KeyError, TypeError, ValueError):
                path.unlink(missing_ok=True)  # a damaged file is computed again
        started = time.perf_counter()
        seed = int(name[:15], 16)
        with frozen(seen):
            images = images.to(next((value.device for value in seen.state_dict().values()), images.device))
            target = Target(seen, len(images), attack.access, draws=cell.draws, seed=seed, precision=cell.precision)
            clean = torch.cat([target.part(part).quality(images[part]) for part in torch.arange(len(images)).split(8)])
            objective = Objective(cell.objective, clean, float(clean.mean()), value=cell.target)
            with watched(seen) as past:
                fit = attack.fit(target, images, objective, cell.threat, Generators([seed]))
        facts = {
            "sha256": _hash(fit),
            "images": len(images),
            "references": references,
            "forwards": int(target.counts.forwards.sum()),
            "backwards": int(target.counts.backwards.sum()),
            "seconds": time.perf_counter() - started,
            **({"past_target": past.reason} if past.reason else {}),
        }
        temporary = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {key: tensor.detach().cpu().contiguous() for key, tensor in fit.items()},
                temporary,
                {"facts": json.dumps(facts), "answers": json.dumps(answers or {})},
            )
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)  # the cache is optional: the fit is computed again the next time
        return CachedFit(fit, facts)


def _center_crop(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def _hash(fit: Fit) -> str:
    sha256 = hashlib.sha256()
    for name in sorted(fit):
        sha256.update(name.encode() + fit[name].detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()
