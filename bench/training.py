"""`iqarena train`: fits a recipe to a data set and leaves weights with a card."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from iqarena.bench.datasets.base import SPLITS, ImageDataset, Subset
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import UserError
from iqarena.bench.registry import DEFENSES, MODELS
from iqarena.bench.results.provenance import provenance
from iqarena.defenses.base import DoesNotApply, TrainedDefense
from iqarena.defenses.training.loop import Progress, Schedule, srocc, train
from iqarena.models.base import FittedModel, QualityModel
from iqarena.models.imagenet import OnImageNet, load_backbone
from iqarena.models.zoo import WeightsError, card_of, load_weights, save_weights, weight_file

_WATCHED = 200
"""Validation images that are scored ten times on the way; all of them would take a quarter of a short training's time."""


def fit(
    model_name: str,
    defense_spec: str,
    dataset: ImageDataset,
    schedule: Schedule,
    out: Path,
    *,
    start: Path | None = None,
    backbone: str | None = None,
    label: str = "",
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train a model under a recipe; goes on where a killed run stopped. A fitted model is fitted, in one go.

    Args:
        model_name: registry name of the architecture.
        defense_spec: `none` or a training defense, with parameters.
        dataset: labelled; its "training" split is trained on, "validation" watched, in part, and scored at the end,
            as is "test".
        schedule: budget and speed.
        out: folder for weights, card and, meanwhile, the checkpoint.
        start: undefended weights to start from; random ones if left out.
        backbone: file with ImageNet weights of the model's backbone, or "imagenet" to fetch them through torchvision.
        label: tells these weights from others of the same model and recipe, see `iqarena.models.zoo`.
        report: told of progress.

    Returns:
        The weight file.

    Raises:
        UserError: for anything that the caller can mend.
    """
    recipe = DEFENSES.build(defense_spec)
    if not isinstance(recipe, TrainedDefense):
        raise UserError(f"{recipe.name} is not trained; only training defenses and none are")
    torch.manual_seed(schedule.seed)
    model = MODELS.build(model_name)
    parts = _parts_for(model, dataset, schedule.seed)
    prepared: QualityModel
    try:
        out.mkdir(parents=True, exist_ok=True)
        target = _target(model, recipe, out, label)
        if isinstance(model, FittedModel):
            if recipe.name != "none" or start is not None or backbone is not None:
                raise UserError(f"{model.info.name} is fitted in one go, without a recipe or weights to start from")
            prepared, how = model, {"fit": model.fit(_reported(parts.training, report))}
        else:
            began = _began(model, start, backbone)
            prepared, how = _trained(model, recipe, began, dataset.fingerprint, parts, schedule, target, report)
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written to ({error.strerror}); choose another --out") from None
    except (DoesNotApply, WeightsError, ValueError, UserError) as error:
        # what a reading process raised comes with its traceback before the line that matters
        raise UserError(str(error).strip().splitlines()[-1].partition("Error: ")[2] or str(error)) from None
    card = {
        "model": model.info.name,
        "defense": recipe.name,
        "recipe": asdict(recipe) if is_dataclass(recipe) else {},
        **how,
        "data": {
            "name": dataset.name,
            "label_kind": dataset.label_kind,
            "fingerprint": dataset.fingerprint,
            "training_images": len(parts.training),
            "training_references": parts.references,
        },
        "measured": _measured(prepared, parts),
        "versions": provenance()["versions"],
        "licence": "MIT",
    }
    save_weights(prepared, target, card)
    target.with_suffix(".checkpoint").unlink(missing_ok=True)
    return target


class _Parts(NamedTuple):
    """What is trained on and what is scored; None where there is none, or where nothing could be said of it."""

    training: Subset
    validation: Subset | None
    test: Subset | None

    @property
    def references(self) -> int:
        """Undistorted images behind those that are trained on."""
        return len({self.training.whole.samples[i].reference_id for i in self.training.indices})


def _parts_for(model: QualityModel, dataset: ImageDataset, seed: int) -> _Parts:
    """The splits of a data set, as a model wants them.

    Raises:
        UserError: where labels or training images are missing.
    """
    labelled = dataset.label_kind != "none" and not any(math.isnan(sample.mos) for sample in dataset.samples)
    if not labelled and (not isinstance(model, FittedModel) or model.needs_labels):
        raise UserError(f"the data set {dataset.name} lacks labels for some images; training needs them all")
    everything = _Parts(Subset(dataset, range(len(dataset))), None, None)  # without labels, nothing is kept apart
    parts = _splits(dataset, seed) if labelled else everything
    if isinstance(model, FittedModel) and model.most_images is not None:
        parts = parts._replace(training=parts.training.thinned(model.most_images))
    return parts


def _trained(
    model: QualityModel,
    recipe: TrainedDefense,
    began: dict[str, Any] | str,
    fingerprint: str,
    parts: _Parts,
    schedule: Schedule,
    target: Path,
    report: Callable[[Progress], None],
) -> tuple[QualityModel, dict[str, Any]]:
    """The model as its recipe leaves it, and what the card says of how."""
    identity = {"recipe": [recipe.name, asdict(recipe)], "data": fingerprint, "start": began}
    prepared = recipe.prepare(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
    budget = train(
        prepared,
        recipe.losses,
        recipe.passes_an_image,
        parts.training,
        schedule,
        checkpoint=target.with_suffix(".checkpoint"),
        identity=json.dumps(identity),
        validation=parts.validation and parts.validation.thinned(_WATCHED),
        report=report,
    )
    return prepared, {
        "passes_an_image": recipe.passes_an_image,
        "schedule": asdict(schedule),
        "budget": budget,
        "start": began,
    }


def _measured(model: QualityModel, parts: _Parts) -> dict[str, float]:
    """SROCC on the demo set and on what was kept apart, whole images."""
    scored = {"demo_srocc_pseudo_mos": Demo(), "validation_srocc": parts.validation, "test_srocc": parts.test}
    return {name: round(srocc(model, images), 4) for name, images in scored.items() if images is not None}


def _target(model: QualityModel, recipe: TrainedDefense, out: Path, label: str) -> Path:
    """The file to write.

    Raises:
        UserError: for a label that a spec could not name.
    """
    if label and not re.fullmatch(r"[A-Za-z][\w-]*", label):
        raise UserError(f"label {label!r}: a letter, then letters, digits, - and _")
    return weight_file(model.info.name, recipe.name, out, label)


def _reported(images: Subset, report: Callable[[Progress], None]) -> Iterator[tuple[torch.Tensor, float]]:
    """Each image (3, H, W) in [0, 1] with its label, while progress is told."""
    started = time.monotonic()
    for i in range(len(images)):
        yield images.image(i).float() / 255, images.mos(i)
        if (i + 1) % 50 == 0 or i + 1 == len(images):
            report(Progress((i + 1) / len(images), math.nan, None, time.monotonic() - started))


def _began(model: QualityModel, start: Path | None, backbone: str | None) -> dict[str, Any] | str:
    """Give a model the weights that its training begins with; what the card says of them.

    Raises:
        UserError, WeightsError: where they cannot be had or are not for this model.
    """
    if start is not None and backbone is not None:
        raise UserError("a training starts from whole weights or from those of a backbone; name one of the two")
    if start is not None:
        return {"weights_sha256": load_weights(model, start), "card": card_of(start)}
    if backbone is None:
        return "random weights"
    if not isinstance(model, OnImageNet):
        raise UserError(f"{model.info.name} has no ImageNet backbone")
    return {"backbone": model.imagenet, "backbone_sha256": load_backbone(model, backbone)}


def _splits(dataset: ImageDataset, seed: int) -> _Parts:
    """Training, validation and test, the latter two where there are any.

    Raises:
        UserError: where no image is to be trained on.
    """
    indices: dict[str, list[int]] = {name: [] for name in SPLITS}
    for index, name in enumerate(dataset.split(seed)):
        indices[name].append(index)
    if not indices["training"]:
        raise UserError(f"the data set {dataset.name} has no image in its training split")
    training, validation, test = (Subset(dataset, some) for some in indices.values())
    return _Parts(training, validation if len(validation) else None, test if len(test) else None)
