"""`iqarena train`: fits a recipe to a data set and leaves weights with a card."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from bench.datasets.base import ImageDataset, Subset
from bench.datasets.demo import Demo
from bench.errors import UserError
from bench.provenance import provenance
from bench.registry import DEFENSES, MODELS
from defenses.base import DoesNotApply, TrainedDefense
from defenses.training.loop import Progress, Schedule, srocc, train
from models.base import QualityModel
from models.imagenet import OnImageNet, load_backbone
from models.zoo import WeightsError, card_of, load_weights, save_weights, weight_file


def fit(
    model_name: str,
    defense_spec: str,
    dataset: ImageDataset,
    schedule: Schedule,
    out: Path,
    *,
    start: Path | None = None,
    backbone: str | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train a model under a recipe; goes on where a killed run stopped.

    Args:
        model_name: registry name of the architecture.
        defense_spec: `none` or a training defense, with parameters.
        dataset: labelled; one with splits is trained on "training" and watched on "validation".
        schedule: budget and speed.
        out: folder for weights, card and, meanwhile, the checkpoint.
        start: undefended weights to start from; random ones if left out.
        backbone: file with ImageNet weights of the model's backbone, or "imagenet" to fetch them through torchvision.
        report: told of progress.

    Returns:
        The weight file.

    Raises:
        UserError: for anything that the caller can mend.
    """
    recipe = DEFENSES.build(defense_spec)
    if not isinstance(recipe, TrainedDefense):
        raise UserError(f"{recipe.name} is not trained; only training defenses and none are")
    if dataset.label_kind == "none" or any(math.isnan(sample.mos) for sample in dataset.samples):
        raise UserError(f"the data set {dataset.name} lacks labels for some pictures; training needs them all")
    torch.manual_seed(schedule.seed)
    try:
        out.mkdir(parents=True, exist_ok=True)
        model = MODELS.build(model_name)
        target = weight_file(model.info.name, recipe.name, out)
        began = _began(model, start, backbone)
        identity = {"recipe": [recipe.name, asdict(recipe)], "data": dataset.fingerprint, "start": began}
        prepared = recipe.prepare(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
        training, validation = _splits(dataset)
        facts = train(
            prepared, recipe.losses, recipe.passes_an_image, training, schedule,
            checkpoint=target.with_suffix(".checkpoint"), identity=json.dumps(identity),
            validation=validation, report=report,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written to ({error.strerror}); choose another --out") from None
    except (DoesNotApply, WeightsError, ValueError, UserError) as error:
        # what a reading process raised comes with its traceback before the line that matters
        raise UserError(str(error).strip().splitlines()[-1].partition("Error: ")[2] or str(error)) from None
    measured = {"demo_srocc_pseudo_mos": round(srocc(prepared, Demo()), 4)}
    if validation is not None:
        measured["validation_srocc"] = round(srocc(prepared, validation), 4)
    card = {
        "model": model.info.name,
        "defense": recipe.name,
        "recipe": asdict(recipe) if is_dataclass(recipe) else {},
        "passes_an_image": recipe.passes_an_image,
        "schedule": asdict(schedule),
        "budget": facts,
        "start": began,
        "data": {"name": dataset.name, "label_kind": dataset.label_kind, "fingerprint": dataset.fingerprint,
                 "training_pictures": len(training), "training_references": _references(dataset, training)},
        "measured": measured,
        "versions": provenance()["versions"],
        "licence": "MIT",
    }  # fmt: skip
    save_weights(prepared, target, card)
    target.with_suffix(".checkpoint").unlink(missing_ok=True)
    return target


def _began(model: QualityModel, start: Path | None, backbone: str | None) -> dict[str, Any] | str:
    """Give a model the weights that its training begins with; what the card says of them.

    Raises:
        UserError, WeightsError: where there are none, or no training can change them.
    """
    if not any(True for _ in model.parameters()):
        raise UserError(f"{model.info.name} has no weights to train")
    if start is not None and backbone is not None:
        raise UserError("a training starts from whole weights or from those of a backbone; name one of the two")
    if start is not None:
        return {"weights_sha256": load_weights(model, start), "card": card_of(start)}
    if backbone is None:
        return "random weights"
    if not isinstance(model, OnImageNet):
        raise UserError(f"{model.info.name} has no ImageNet backbone")
    return {"backbone": model.imagenet, "backbone_sha256": load_backbone(model, backbone)}


def _splits(dataset: ImageDataset) -> tuple[Subset, Subset | None]:
    splits = getattr(dataset, "splits", None) or ["training"] * len(dataset)
    training = [i for i, split in enumerate(splits) if split == "training"]
    validation = [i for i, split in enumerate(splits) if split == "validation"]
    if not training:
        raise UserError(f"the data set {dataset.name} has no picture in its training split")
    return Subset(dataset, training), Subset(dataset, validation) if validation else None


def _references(dataset: ImageDataset, some: Subset) -> int:
    return len({dataset.samples[i].reference_id for i in some.indices})
