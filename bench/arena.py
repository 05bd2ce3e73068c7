"""Runs cells: pictures through attack, threat check and score."""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, is_dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch

from attacks.base import Attack
from attacks.ensemble import Ensemble
from attacks.fitted import FittedAttack
from attacks.objective import Objective
from bench.crafting import Crafted, Crafter, seed_of
from bench.datasets.base import ImageDataset
from bench.errors import UserError
from bench.fits import Fits
from bench.forward import differ, optimises
from bench.loading import load_model, told
from bench.measures import measure_cell
from bench.pictures import Pictures, Shelf
from bench.plan import Cell, digest
from bench.probe import probed
from bench.provenance import provenance
from bench.records import IMAGE_COLUMNS
from bench.registry import ATTACKS, DEFENSES, source_hash
from bench.target import checked_quality, frozen
from defenses.base import Defense, DoesNotApply
from models.base import QualityModel
from models.zoo import WeightsError

CACHED_BYTES = 2**29
"""Attacked pictures that are kept in memory for the cells and ensembles that share them."""

GRADIENT_ACCESS = ("gradient", "set")

TIMED_PICTURES, TIMED_TURNS = 8, 5
"""For the cost of a defense: few, since it is measured in every run."""

STATUSES = ("ok", "violation", "not-finite", "failed")
"""Of a picture, from good to bad; a cell has the worst of its pictures'."""


class CannotRun(Exception):
    """A cell that makes no sense; the message is the reason, and the cell is skipped."""


class Arena:
    """Everything that cells of one image set share: pictures, models, clean scores, attacked pictures.

    Args:
        dataset: where pictures come from.
        limit: at most so many, evenly over the references.
        batch: pictures at once.
        extra_models: models that are not in the registry, by name.
    """

    def __init__(
        self, dataset: ImageDataset, limit: int | None, batch: int, extra_models: dict[str, QualityModel] | None = None
    ) -> None:
        self.dataset, self.batch = dataset, batch
        indices = dataset.spread(limit)
        self.samples = [dataset.samples[i] for i in indices]
        self.pictures = Pictures(dataset, indices)
        ids = [sample.image_id for sample in self.samples]
        self.image_list = list(zip(ids, self.pictures.hashes, strict=True))
        self.sizes = dict(reversed(list(zip(self.pictures.sizes, ids, strict=True))))  # of each, the first picture
        self.extra_models = extra_models or {}
        self._models: dict[str, QualityModel] = {}
        self._defended: dict[tuple[str, str, bool], QualityModel] = {}
        self._clean: dict[tuple[str, str, int], torch.Tensor] = {}
        self._speed: dict[tuple[str, str], tuple[float, float]] = {}
        self._conduct: dict[tuple[str, str], list[str]] = {}
        self._crafted: OrderedDict[str, Crafted] = OrderedDict()

    @functools.cached_property
    def fits(self) -> Fits:
        """What fitted attacks learn from."""
        try:
            return Fits(self.dataset, [sample.reference_id for sample in self.samples])
        except UserError as error:
            raise CannotRun(str(error)) from None

    # --- what a cell is made of

    def model(self, spec: str) -> QualityModel:
        """The undefended model."""
        if spec not in self._models:
            self._models[spec] = self.extra_models[spec] if spec in self.extra_models else load_model(spec)
        return self._models[spec]

    def defended(self, model: str, defense: str, surrogate: bool = False) -> QualityModel:
        """The deployed model, or what an adaptive attacker differentiates.

        Raises:
            CannotRun: where the defense does not fit the model.
        """
        key = (model, defense, surrogate)
        if key not in self._defended:
            made: Defense = DEFENSES.build(defense)
            base = self.model(model)
            try:
                defended = (made.surrogate if surrogate else made.protect)(base)
            except DoesNotApply as error:
                raise CannotRun(str(error)) from None
            except WeightsError as error:
                raise UserError(str(error)) from None
            except Exception as error:
                raise UserError(f"defense {defense!r} on {model!r}: {told(error)}") from None
            if made.stochastic and defended is not base:
                defended.info = replace(defended.info, stochastic=True)
            self._defended[key] = defended
        return self._defended[key]

    def attacked(self, cell: Cell) -> QualityModel:
        """What the attack of a cell asks: the surrogate if it wants gradients, else the deployed model itself."""
        wants_gradient = ATTACKS.build(cell.attack).access in GRADIENT_ACCESS
        return self.defended(*cell.crafted_on, surrogate=wants_gradient)

    def cell_id(self, cell: Cell) -> str:
        """Hash of everything that a cell's numbers depend on.

        Raises:
            CannotRun: where the cell makes no sense.
        """
        self.check(cell)
        made_of = [self._ingredients(cell, cell.model, cell.defense)]
        if cell.source:
            made_of.append(self._ingredients(cell, *cell.crafted_on))
        return digest(asdict(cell), made_of, self.image_list, self.dataset.fingerprint)[:16]

    def _ingredients(self, cell: Cell, name: str, defense: str) -> list[object]:
        """Code and weights of a cell's attack, of a model and of a defense."""
        attack, model = ATTACKS.build(cell.attack), self.model(name)
        members = [member for member, _ in attack.members] if isinstance(attack, Ensemble) else []
        code = [source_hash(thing) for thing in (attack, *members, DEFENSES.build(defense), model)]
        weights = [model.info.weights_sha256, self.defended(name, defense).info.weights_sha256]
        return [code, weights, model.info.score_range, model.info.higher_is_better]

    def check(self, cell: Cell) -> None:
        """Whether a cell can be run at all.

        Raises:
            CannotRun: with the reason.
        """
        attack, model = ATTACKS.build(cell.attack), self.model(cell.model)
        seen = self.attacked(cell)
        deployed = self.defended(cell.model, cell.defense)
        if cell.norm not in attack.norms:
            raise CannotRun(f"{cell.attack} does not support {cell.norm}; it supports {', '.join(attack.norms)}")
        if cell.objective not in attack.objectives:
            raise CannotRun(f"{cell.attack} cannot {cell.objective}; it can {', '.join(attack.objectives)}")
        if cell.queries is not None and not attack.limited:
            raise CannotRun(f"{cell.attack} cannot keep to a query limit")
        if cell.queries and seen.info.stochastic and cell.queries < cell.draws:
            raise CannotRun(f"a query limit of {cell.queries} is below the {cell.draws} draws of an answer")
        if attack.access in GRADIENT_ACCESS and not seen.info.differentiable:
            raise CannotRun(f"{cell.attack} needs a gradient, and {seen.info.name} has none")
        needs = [(cell.model, max(model.info.min_size, deployed.info.min_size)), (cell.crafted_on[0], seen.info.min_size)]
        for (height, width), image_id in self.sizes.items():
            for name, least in needs:
                if min(height, width) < least:
                    raise CannotRun(f"{image_id} is {width}×{height}; {name} needs {least}×{least}")
            reason = attack.refusal(cell.threat, height, width)
            if reason:
                raise CannotRun(reason)

    # --- running one

    def run(self, cell: Cell, cell_id: str) -> tuple[dict[str, Any], pd.DataFrame]:
        """Run a cell; whatever goes wrong in a plugin becomes a status."""
        started, cpu = time.perf_counter(), time.process_time()
        flags: list[str] = []
        errors: list[str] = []
        fits: list[dict[str, Any]] = []
        curve: dict[str, Any] = {}
        images = self._rows()
        crafting_seconds = 0.0
        speed = (float("nan"), float("nan"))
        try:
            undefended = self.clean(cell.model, "none", cell.seed)
            clean = self.clean(cell.model, cell.defense, cell.seed)
            speed = self.speed(cell.model, cell.defense)
            flags += self.conduct(cell.model, cell.defense)
            images["undefended_clean_quality"], images["clean_quality"] = undefended.numpy(), clean.numpy()
            shared = cell.crafting in self._crafted
            crafted = self.crafted(cell)
            crafting_seconds = crafted.seconds if shared else 0.0
            images[list(crafted.table.columns)] = crafted.table
            errors, fits, curve = list(crafted.errors), crafted.fits, crafted.curve
            flags += crafted.flags
            adversarial = self.score(self.defended(cell.model, cell.defense), crafted.pixels, digest(cell.crafting, "adv"))
            images["adv_quality"] = adversarial.numpy()
            finite = np.isfinite(images[["clean_quality", "adv_quality"]].to_numpy()).all(axis=1)
            images.loc[~finite & (images.status != "failed"), "status"] = "not-finite"
            images.loc[images.status == "failed", "adv_quality"] = np.nan
        except (Exception, SystemExit) as error:
            errors.append(told(error))
            images["status"] = "failed"
        times = {"seconds": time.perf_counter() - started + crafting_seconds, "cpu_seconds": time.process_time() - cpu}
        record, images = self._record(cell, cell_id, images, flags, errors, fits, times, speed)
        record["model"]["probe"] = probed(self.model(cell.model))
        record["curve"] = curve
        return record, images

    def failed(self, cell: Cell, cell_id: str, reason: str) -> tuple[dict[str, Any], pd.DataFrame]:
        """What is recorded of a cell that ended otherwise than by itself."""
        nothing = {"seconds": float("nan"), "cpu_seconds": float("nan")}
        return self._record(cell, cell_id, self._rows(), [], [reason], [], nothing, (float("nan"), float("nan")))

    def _rows(self) -> pd.DataFrame:
        """A row a picture, before anything is known."""
        return pd.DataFrame(
            {"image_id": [s.image_id for s in self.samples], "reference_id": [s.reference_id for s in self.samples],
             "mos": [s.mos for s in self.samples], "status": "failed"}
        )  # fmt: skip

    def _record(
        self, cell: Cell, cell_id: str, images: pd.DataFrame, flags: list[str], errors: list[str],
        fits: list[dict[str, Any]], times: dict[str, float], speed: tuple[float, float],
    ) -> tuple[dict[str, Any], pd.DataFrame]:  # fmt: skip
        images = images.reindex(columns=IMAGE_COLUMNS)
        record = {
            "cell_id": cell_id,
            "cell": asdict(cell),
            "status": max(images.status, key=STATUSES.index),
            "errors": sorted(set(errors)),
            "n_images": len(images),
            "measures": measure_cell(images),
            "costs": _costs(images) | {"seconds": times["seconds"]},
            "flags": flags,
            **self._facts(cell, fits),
            "score_seconds_an_image": dict(zip(("defended", "undefended"), speed, strict=True)),
            "provenance": provenance() | {"cpu_seconds": times["cpu_seconds"], "batch": self.batch},
        }
        return _without_nan(record), images

    def _facts(self, cell: Cell, fits: list[dict[str, Any]]) -> dict[str, Any]:
        """What a reader of the record wants to know of its parts."""
        attack, defense, model = ATTACKS.build(cell.attack), DEFENSES.build(cell.defense), self.model(cell.model).info
        key = (cell.model, cell.defense, False)
        deployed = self._defended[key].info.weights_sha256 if key in self._defended else ""
        return {
            "attack": {"access": attack.access, "control": attack.control, "ensemble": isinstance(attack, Ensemble),
                       "paper": attack.paper, "fits": fits, **_parameters(attack)},
            "defense": {"kind": defense.kind, "stochastic": defense.stochastic, "surrogate": defense.surrogate_kind,
                        "paper": defense.paper, "weights_sha256": deployed, **_parameters(defense)},
            "model": {"paper": model.paper, "weights_sha256": model.weights_sha256, "score_range": list(model.score_range)},
            "dataset": {"label_kind": self.dataset.label_kind, "fingerprint": self.dataset.fingerprint},
        }  # fmt: skip

    def clean(self, model: str, defense: str, seed: int) -> torch.Tensor:
        """Clean qualities (N,) of the deployed model; computed once."""
        key = (model, defense, seed)
        if key not in self._clean:
            self._clean[key] = self.score(self.defended(model, defense), self.pictures, digest(key, "clean"))
        return self._clean[key]

    def speed(self, model: str, defense: str) -> tuple[float, float]:
        """Seconds a picture of the deployed and of the undefended model: medians of interleaved turns; measured once."""
        if (model, defense) not in self._speed:
            pair = [self.defended(model, defense), self.model(model)]
            some = list(islice(self.pictures, TIMED_PICTURES))
            taken: list[list[float]] = [[], []]
            for turn in range(TIMED_TURNS + 1):
                for tested, times in zip(pair, taken, strict=True):
                    started = time.perf_counter()
                    self.score(tested, some, "speed")
                    if turn > 0:  # the first turn warms up
                        times.append((time.perf_counter() - started) / len(some))
            defended, undefended = (float(np.median(times)) for times in taken)
            self._speed[model, defense] = (undefended if pair[0] is pair[1] else defended, undefended)
        return self._speed[model, defense]

    def conduct(self, model: str, defense: str) -> list[str]:
        """Flags of what the deployed model does while it scores; looked at once."""
        if (model, defense) not in self._conduct:
            deployed, some = self.defended(model, defense), list(islice(self.pictures, 2))
            flags = []
            if differ([self.score(deployed, some, "conduct") for _ in range(2)]):
                flags.append("undeclared-randomness")
            if optimises(deployed, some[0][None].float() / 255):
                flags.append("optimises-in-forward")
            self._conduct[model, defense] = flags
        return self._conduct[model, defense]

    def score(self, model: QualityModel, pixels: Sequence[torch.Tensor], seed: str) -> torch.Tensor:
        """Qualities (N,) of the first N stored pictures, uint8, in float32; what is not finite stays so."""
        scores = torch.empty(len(pixels))
        with frozen(model), torch.inference_mode():
            for group in self._groups(len(pixels), 1 if model.info.stochastic else self.batch):
                batch = torch.stack([pixels[i] for i in group]).float() / 255
                with torch.random.fork_rng(enabled=model.info.stochastic):
                    if model.info.stochastic:
                        torch.manual_seed(seed_of(seed, self.samples[group[0]].image_id))
                    scores[group] = checked_quality(model, batch)
        return scores

    def crafted(self, cell: Cell) -> Crafted:
        """The attacked pictures of a cell, made once for all cells that share them."""
        if cell.crafting not in self._crafted:
            self._crafted[cell.crafting] = self._craft(cell)
            while sum(made.pixels.bytes for made in self._crafted.values()) > CACHED_BYTES and len(self._crafted) > 1:
                self._crafted.popitem(last=False)
        self._crafted.move_to_end(cell.crafting)
        return self._crafted[cell.crafting]

    def _craft(self, cell: Cell) -> Crafted:
        attack: Attack = ATTACKS.build(cell.attack)
        if isinstance(attack, Ensemble):
            return self._craft_members(cell, attack)
        clean = self.clean(*cell.crafted_on, cell.seed)
        crafter = Crafter(
            cell, attack, self.attacked(cell), clean, self.samples, self.pictures, self.batch,
            self.fits if isinstance(attack, FittedAttack) else None, self._ingredients(cell, *cell.crafted_on),
        )  # fmt: skip
        return crafter.craft()

    def _craft_members(self, cell: Cell, ensemble: Ensemble) -> Crafted:
        """Of each picture, the member's result that is worst for the model that the attacker attacks."""
        clean = self.clean(*cell.crafted_on, cell.seed)
        labels = torch.tensor([sample.mos for sample in self.samples], dtype=torch.float32)
        objective = Objective(
            cell.objective, clean, float(clean[torch.isfinite(clean)].mean()), None if labels.isnan().any() else labels
        )
        judge = self.defended(*cell.crafted_on)
        made, badness = [], []
        for member, kind in ensemble.members:
            own = replace(cell, attack=member.name, objective=kind)
            made.append(self.crafted(own))
            quality = self.score(judge, made[-1].pixels, digest(own.crafting, "adv"))
            badness.append(ensemble.badness(objective, quality).nan_to_num(-torch.inf))
        chosen = torch.stack(badness).argmax(dim=0).tolist()
        table = pd.concat([made[k].table.iloc[[i]] for i, k in enumerate(chosen)], ignore_index=True)
        for cost in ("forwards", "backwards"):
            table[cost] = sum(member.table[cost] for member in made)
        table["status"] = [max((m.table.status[i] for m in made), key=STATUSES.index) for i in range(len(chosen))]
        pixels = Shelf(len(chosen))
        for place, k in enumerate(chosen):
            pixels.put(place, made[k].pixels[place])
        return Crafted(
            pixels, table, sum(member.seconds for member in made),
            sorted({flag for m in made for flag in m.flags}), [error for m in made for error in m.errors],
        )  # fmt: skip

    def _groups(self, count: int, most: int) -> Iterator[list[int]]:
        """Indices of the first `count` pictures in groups of one size and at most `most`."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, size in enumerate(self.pictures.sizes[:count]):
            by_size.setdefault(size, []).append(index)
        for indices in by_size.values():
            for start in range(0, len(indices), most):
                yield indices[start : start + most]


def _parameters(plugin: object) -> dict[str, Any]:
    return {"parameters": asdict(plugin)} if is_dataclass(plugin) and not isinstance(plugin, type) else {}


def _costs(images: pd.DataFrame) -> dict[str, float]:
    made = images[images.status != "failed"]
    return {
        "linf_max": float(made.linf.max()),
        "psnr_mean": float(made.psnr.mean()),
        "ssim_mean": float(made.ssim.mean()),
        "ms_ssim_mean": float(made.ms_ssim.mean()),
        "forwards_mean": float(images.forwards.mean()),
        "backwards_mean": float(images.backwards.mean()),
    }


def _without_nan(value: Any) -> Any:
    """NaN is not JSON: missing becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
