"""`iqarena train`: train a model under a recipe on a data set and write its weights and their card."""

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

_VALIDATION_IMAGES = 200
"""Validation images that are scored ten times during training; all would take a quarter of the time of a short training."""


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
    """Train a model under a recipe; an interrupted training is resumed. A `FittedModel` is fitted in one pass.

    Args:
        model_name: registry name of the architecture.
        defense_spec: `none` or a training defense, with parameters.
        dataset: labelled data set; the model is trained on its "training" split; a part of "validation" is scored during
            training, "validation" and "test" at the end.
        schedule: budget, batch, crop and learning rate.
        out: folder for weights, card and, during training, the checkpoint.
        start: file with undefended weights to start from; random weights if left out.
        backbone: file with ImageNet weights of the model's backbone, or "imagenet" to fetch them through torchvision.
        label: distinguishes these weights from others of the same model and recipe, see `iqarena.models.zoo`.
        report: callback for progress.

    Returns:
        The path of the weight file.

    Raises:
        UserError: for errors that the caller can fix.
    """
    recipe = DEFENSES.build(defense_spec)
    if not isinstance(recipe, TrainedDefense):
        raise UserError(f"{recipe.name} is not trained; only training defenses and none are")
    torch.manual_seed(schedule.seed)
    model = MODELS.build(model_name)
    splits = _splits_for(model, dataset, schedule.seed)
    prepared: QualityModel
    try:
        out.mkdir(parents=True, exist_ok=True)
        target = _target(model, recipe, out, label)
        if isinstance(model, FittedModel):
            if recipe.name != "none" or start is not None or backbone is not None:
                raise UserError(f"{model.info.name} is fitted in one go, without a recipe or weights to start from")
            prepared, details = model, {"fit": model.fit(_reported(splits.training, report))}
        else:
            start_entry = _load_start(model, start, backbone)
            prepared, details = _trained(model, recipe, start_entry, dataset.fingerprint, splits, schedule, target, report)
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written to ({error.strerror}); choose another --out") from None
    except (DoesNotApply, WeightsError, ValueError, UserError) as error:
        # an exception of a data-loading process has its traceback before the line that matters
        raise UserError(str(error).strip().splitlines()[-1].partition("Error: ")[2] or str(error)) from None
    card = {
        "model": model.info.name,
        "defense": recipe.name,
        "recipe": asdict(recipe) if is_dataclass(recipe) else {},
        **details,
        "data": {
            "name": dataset.name,
            "label_kind": dataset.label_kind,
            "fingerprint": dataset.fingerprint,
            "training_images": len(splits.training),
            "training_references": splits.references,
        },
        "measured": _measure_srocc(prepared, splits),
        "versions": provenance()["versions"],
        "licence": "MIT",
    }
    save_weights(prepared, target, card)
    target.with_suffix(".checkpoint").unlink(missing_ok=True)
    return target


class _Splits(NamedTuple):
    """The splits for training, validation and test; None where a split is empty or has no labels."""

    training: Subset
    validation: Subset | None
    test: Subset | None

    @property
    def references(self) -> int:
        """Number of reference images of the training split."""
        return len({self.training.whole.samples[i].reference_id for i in self.training.indices})


def _splits_for(model: QualityModel, dataset: ImageDataset, seed: int) -> _Splits:
    """Return the splits of a data set for a model.

    Raises:
        UserError: where labels or training images are missing.
    """
    labelled = dataset.label_kind != "none" and not any(math.isnan(sample.mos) for sample in dataset.samples)
    if not labelled and (not isinstance(model, FittedModel) or model.needs_labels):
        raise UserError(f"the data set {dataset.name} lacks labels for some images; training needs them all")
    everything = _Splits(Subset(dataset, range(len(dataset))), None, None)  # no held-out split without labels
    splits = _split(dataset, seed) if labelled else everything
    if isinstance(model, FittedModel) and model.most_images is not None:
        splits = splits._replace(training=splits.training.thinned(model.most_images))
    return splits


def _trained(
    model: QualityModel,
    recipe: TrainedDefense,
    start_entry: dict[str, Any] | str,
    fingerprint: str,
    splits: _Splits,
    schedule: Schedule,
    target: Path,
    report: Callable[[Progress], None],
) -> tuple[QualityModel, dict[str, Any]]:
    """Train the model; return it as its recipe prepares it, and the card's entries on the training."""
    identity = {"recipe": [recipe.name, asdict(recipe)], "data": fingerprint, "start": start_entry}
    prepared = recipe.prepare(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
    budget = train(
        prepared,
        recipe.losses,
        recipe.passes_an_image,
        splits.training,
        schedule,
        checkpoint=target.with_suffix(".checkpoint"),
        identity=json.dumps(identity),
        validation=splits.validation and splits.validation.thinned(_VALIDATION_IMAGES),
        report=report,
    )
    return prepared, {
        "passes_an_image": recipe.passes_an_image,
        "schedule": asdict(schedule),
        "budget": budget,
        "start": start_entry,
    }


def _measure_srocc(model: QualityModel, splits: _Splits) -> dict[str, float]:
    """Return the SROCC on whole images of the demo set and of the held-out splits."""
    scored = {"demo_srocc_pseudo_mos": Demo(), "validation_srocc": splits.validation, "test_srocc": splits.test}
    return {name: round(srocc(model, images), 4) for name, images in scored.items() if images is not None}


def _target(model: QualityModel, recipe: TrainedDefense, out: Path, label: str) -> Path:
    """Return the path of the weight file.

    Raises:
        UserError: for a label that cannot be written in a spec.
    """
    if label and not re.fullmatch(r"[A-Za-z][\w-]*", label):
        raise UserError(f"label {label!r}: a letter, then letters, digits, - and _")
    return weight_file(model.info.name, recipe.name, out, label)


def _reported(images: Subset, report: Callable[[Progress], None]) -> Iterator[tuple[torch.Tensor, float]]:
    """Yield each image (3, H, W) in [0, 1] with its label, and report progress."""
    started = time.monotonic()
    for i in range(len(images)):
        yield images.image(i).float() / 255, images.mos(i)
        if (i + 1) % 50 == 0 or i + 1 == len(images):
            report(Progress((i + 1) / len(images), math.nan, None, time.monotonic() - started))


def _load_start(model: QualityModel, start: Path | None, backbone: str | None) -> dict[str, Any] | str:
    """Load the initial weights of a training; return the card's entry on them.

    Raises:
        UserError, WeightsError: where they are not available or not for this model.
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


def _split(dataset: ImageDataset, seed: int) -> _Splits:
    """Split a data set into training, validation and test.

    Raises:
        UserError: where the training split is empty.
    """
    indices: dict[str, list[int]] = {name: [] for name in SPLITS}
    for index, name in enumerate(dataset.split(seed)):
        indices[name].append(index)
    if not indices["training"]:
        raise UserError(f"the data set {dataset.name} has no image in its training split")
    training, validation, test = (Subset(dataset, members) for members in indices.values())
    return _Splits(training, validation if len(validation) else None, test if len(test) else None)
