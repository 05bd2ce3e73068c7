"""Runs cells: pictures through attack, threat check and score."""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch

from iqarena.attacks.base import GRADIENT_ACCESS, Attack
from iqarena.attacks.ensemble import Ensemble
from iqarena.attacks.fitted import FittedAttack
from iqarena.attacks.objective import Objective
from iqarena.bench.cells import PROTOCOL, Cell, digest
from iqarena.bench.code_hash import source_hash
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.image_store import Pictures, Shelf
from iqarena.bench.errors import CannotRun, UserError, told
from iqarena.bench.evaluation.certification import Certified, certified, radius_of
from iqarena.bench.evaluation.crafting import Crafted, Crafter, seed_of
from iqarena.bench.evaluation.filter_fidelity import likeness
from iqarena.bench.evaluation.fit_cache import Fits
from iqarena.bench.evaluation.record import STATUSES, Ran, record_of
from iqarena.bench.inference.device import Engine
from iqarena.bench.inference.isolation import OutOfMemory, out_of_memory, seeded, undisturbed
from iqarena.bench.inference.model_checks import probed
from iqarena.bench.inference.model_pool import Lineup
from iqarena.bench.inference.runtime_flags import differ, optimises
from iqarena.bench.inference.target import checked_quality, frozen
from iqarena.bench.registry import ATTACKS, DEFENSES
from iqarena.bench.results.provenance import measured
from iqarena.bench.results.store import IMAGE_COLUMNS
from iqarena.bench.suite import Batch
from iqarena.defenses.certified.base import CertifiedDefense
from iqarena.defenses.purification.base import Purification, PurifiedModel
from iqarena.models.base import QualityModel

CACHED_BYTES = 2**29
"""Attacked pictures that are kept in memory for the cells and ensembles that share them."""

TIMED_PICTURES, TIMED_TURNS = 8, 5
"""For the cost of a defense: few, since it is measured in every run."""


class Arena:
    """Everything that cells of one image set share: pictures, models, clean scores, attacked pictures.

    Args:
        dataset: where pictures come from.
        limit: at most so many, evenly over the references.
        batch: pictures at once, or "auto".
        extra_models: models that are not in the registry, by name; worked on are copies.
        engine: where and how passes are computed.
        memory: bytes that this process may hold, where there is a limit.
    """

    def __init__(
        self, dataset: ImageDataset, limit: int | None, batch: Batch,
        extra_models: dict[str, QualityModel] | None = None, *, engine: Engine | None = None, memory: int | None = None,
    ) -> None:  # fmt: skip
        self.dataset, self.batch = dataset, batch
        indices = dataset.spread(limit)
        self.samples = [dataset.samples[i] for i in indices]
        self.pictures = Pictures(dataset, indices)
        ids = [sample.image_id for sample in self.samples]
        self.image_list = list(zip(ids, self.pictures.hashes, strict=True))
        self.sizes = dict(reversed(list(zip(self.pictures.sizes, ids, strict=True))))  # of each, the first picture
        self.extra_models = {} if extra_models is None else extra_models
        self.lineup = Lineup(self.extra_models, engine or Engine(), batch, self.pictures[0], memory)
        self._halvings = 0  # of the batches of the cell that runs
        self._made_of: dict[tuple[str, str, str], list[object]] = {}
        self._clean: dict[tuple[str, str, int, int], torch.Tensor] = {}
        self._speed: dict[tuple[str, str], tuple[float, float]] = {}
        self._conduct: dict[tuple[str, str], list[str]] = {}
        self._certified: dict[tuple[str, str, float, int], Certified] = {}
        self._crafted: OrderedDict[str, Crafted] = OrderedDict()
        self._elsewhere: dict[str, float] = {}  # by crafting, of the cell that runs: what other cells spent on its pictures

    @functools.cached_property
    def fits(self) -> Fits:
        """What fitted attacks learn from."""
        try:
            return Fits(self.dataset, [sample.reference_id for sample in self.samples])
        except UserError as error:
            raise CannotRun(str(error)) from None

    # --- what a cell is made of

    def defended(self, model: str, defense: str, surrogate: bool = False) -> QualityModel:
        """The deployed model, or what an adaptive attacker differentiates; ready to be asked.

        Raises:
            CannotRun: where the defense does not fit the model.
        """
        return self.lineup.ready(model, defense, surrogate)

    def seen(self, cell: Cell) -> tuple[str, str, bool]:
        """What the attack of a cell asks, as `defended` takes it: the surrogate if it wants gradients, else the deployed."""
        return (*cell.crafted_on, ATTACKS.build(cell.attack).access in GRADIENT_ACCESS)

    def cell_id(self, cell: Cell) -> str:
        """Hash of everything that a cell's numbers depend on.

        Raises:
            CannotRun: where the cell makes no sense.
        """
        self.check(cell)
        made_of = [self._ingredients(cell, cell.model, cell.defense)]
        if cell.source:
            made_of.append(self._ingredients(cell, *cell.crafted_on))
        return digest(cell.parts, made_of, self.image_list, self.dataset.fingerprint)[:16]

    def _ingredients(self, cell: Cell, name: str, defense: str) -> list[object]:
        """Code and weights of a cell's attack, of a model and of a defense."""
        key = (cell.attack, name, defense)
        if key not in self._made_of:
            attack, bare = ATTACKS.build(cell.attack), self.lineup.info(name, "none")
            members = [member for member, _ in attack.members] if isinstance(attack, Ensemble) else []
            code = [source_hash(thing) for thing in (attack, *members, DEFENSES.build(defense), self.lineup.bare(name))]
            weights = [bare.weights_sha256, self.lineup.info(name, defense).weights_sha256]
            self._made_of[key] = [PROTOCOL, code, weights, bare.score_range, bare.higher_is_better]
        return self._made_of[key]

    def check(self, cell: Cell) -> None:
        """Whether a cell can be run at all.

        Raises:
            CannotRun: with the reason.
        """
        attack, model = ATTACKS.build(cell.attack), self.lineup.info(cell.model, "none")
        seen, deployed = self.lineup.info(*self.seen(cell)), self.lineup.info(cell.model, cell.defense)
        if cell.norm not in attack.norms:
            raise CannotRun(f"{cell.attack} does not support {cell.norm}; it supports {', '.join(attack.norms)}")
        if cell.objective not in attack.objectives:
            raise CannotRun(f"{cell.attack} cannot {cell.objective}; it can {', '.join(attack.objectives)}")
        if cell.queries is not None and not attack.limited:
            raise CannotRun(f"{cell.attack} cannot keep to a query limit")
        if cell.queries and seen.stochastic and cell.queries < cell.draws:
            raise CannotRun(f"a query limit of {cell.queries} is below the {cell.draws} draws of an answer")
        if attack.access in GRADIENT_ACCESS and not seen.differentiable:
            raise CannotRun(f"{cell.attack} needs a gradient, and {seen.name} has none")
        behind = f"{cell.model} behind {cell.defense}" if deployed.min_size > model.min_size else cell.model
        needs = [(behind, max(model.min_size, deployed.min_size)), (cell.crafted_on[0], seen.min_size)]
        for (height, width), image_id in self.sizes.items():
            for name, least in needs:
                if min(height, width) < least:
                    raise CannotRun(f"{image_id} is {width}×{height}; {name} needs {least}×{least}")
            reason = attack.refusal(cell.threat, height, width)
            if reason:
                raise CannotRun(reason)

    def crafting_id(self, cell: Cell) -> str:
        """Hash of everything that a cell's attacked pictures depend on."""
        made_of = self._ingredients(cell, *cell.crafted_on)
        return digest(cell.crafting, made_of, self.image_list, self.dataset.fingerprint)[:16]

    # --- running one

    def run(self, cell: Cell, cell_id: str, halvings: int = 0) -> tuple[dict[str, Any], pd.DataFrame]:
        """Run a cell; whatever goes wrong in a plugin becomes a status.

        Args:
            cell, cell_id: which.
            halvings: of its batches, as it ran out of memory before.

        Raises:
            OutOfMemory: where a smaller batch may help.
        """
        self._halvings, self._elsewhere = halvings, {}
        ran = self._nothing(cell)
        with undisturbed(), measured() as ran.spent:
            self._run(cell, ran)
        if changed := self.lineup.changed({cell.model, cell.crafted_on[0]}):
            ran.fail(f"the weights of {' and '.join(changed)} were changed meanwhile; they were loaded anew")
            self._crafted.clear()
        ran.seconds = ran.spent.seconds + sum(self._elsewhere.values())
        record = record_of(ran, cell, cell_id, self.lineup, self.dataset)
        record["model"]["probe"] = probed(self.lineup.bare(cell.model))
        return record, ran.images

    def _run(self, cell: Cell, ran: Ran) -> None:
        images = ran.images
        try:
            undefended = self.clean(cell.model, "none", cell.seed)
            clean = self.clean(cell.model, cell.defense, cell.seed)
            ran.speed = self.speed(cell.model, cell.defense)
            ran.flags += self.conduct(cell.model, cell.defense)
            images["undefended_clean_quality"], images["clean_quality"] = undefended.numpy(), clean.numpy()
            ran.crafted = crafted = self.crafted(cell)
            for column in crafted.table.columns:
                images[column] = crafted.table[column].to_numpy()
            ran.flags += crafted.flags
            ran.errors += crafted.errors
            adversarial = self.score(cell.model, cell.defense, crafted.pixels, digest(cell.crafting, "adv"))
            failed = (crafted.table.status == "failed").to_numpy()
            finite = np.isfinite(clean.numpy()) & np.isfinite(adversarial.numpy())
            images["adv_quality"] = np.where(failed, np.nan, adversarial.numpy())
            images["status"] = crafted.table.status.where(finite | failed, "not-finite").to_numpy()
            ran.certified = self.certified(cell)
            ran.purified = self.purified(cell, crafted)
        except OutOfMemory:
            raise
        except (Exception, SystemExit) as error:
            if out_of_memory(error):
                raise OutOfMemory(told(error)) from None
            ran.fail(told(error))

    def failed(self, cell: Cell, cell_id: str, reason: str) -> tuple[dict[str, Any], pd.DataFrame]:
        """What is recorded of a cell that ended otherwise than by itself."""
        ran = self._nothing(cell)
        ran.fail(reason)
        return record_of(ran, cell, cell_id, self.lineup, self.dataset), ran.images

    def _nothing(self, cell: Cell) -> Ran:
        """A row a picture, before anything is known."""
        images = pd.DataFrame(
            {"image_id": [s.image_id for s in self.samples], "reference_id": [s.reference_id for s in self.samples],
             "mos": [s.mos for s in self.samples], "status": "failed"}
        )  # fmt: skip
        return Ran(images.reindex(columns=IMAGE_COLUMNS), self.crafting_id(cell), self.batch, self._halvings)

    def clean(self, model: str, defense: str, seed: int) -> torch.Tensor:
        """Clean qualities (N,) of the deployed model; computed once."""
        key = (model, defense, seed, self._halvings)  # a batch's size shows in the last digits
        if key not in self._clean:
            self._clean[key] = self.score(model, defense, self.pictures, digest((model, defense, seed), "clean"))
        return self._clean[key]

    def certified(self, cell: Cell) -> Certified | None:
        """Certificates of all pictures, which do not depend on the attack and are made once; None of other defenses."""
        defense, radius = DEFENSES.build(cell.defense), radius_of(cell.threat)
        if not isinstance(defense, CertifiedDefense):
            return None
        key = (cell.model, cell.defense, radius, cell.seed)
        if key not in self._certified:
            model, device = self.lineup.ready(cell.model, "none"), self.lineup.engine.device
            seeds = [seed_of(digest(key, "certificate"), sample.image_id) for sample in self.samples]
            pictures = (picture.to(device) for picture in self.pictures)
            self._certified[key] = certified(defense, model, pictures, seeds, radius)
        return self._certified[key]

    def purified(self, cell: Cell, crafted: Crafted) -> dict[str, float] | None:
        """What the deployed filter of a cell makes of its pictures; None of other defenses."""
        defense, deployed = DEFENSES.build(cell.defense), self.lineup.ready(cell.model, cell.defense)
        if not (isinstance(defense, Purification) and isinstance(deployed, PurifiedModel)):
            return None
        device = self.lineup.engine.device
        pairs = ((x.to(device), y.to(device)) for x, y in zip(self.pictures, crafted.pixels, strict=True))
        seeds = [seed_of(digest(cell.crafting, "purified"), sample.image_id) for sample in self.samples]
        return likeness(deployed, defense.moves_pixels, pairs, seeds)

    def speed(self, model: str, defense: str) -> tuple[float, float]:
        """Seconds a picture of the deployed and of the undefended model: medians of interleaved turns; measured once."""
        if (model, defense) not in self._speed:
            same = self.defended(model, defense) is self.defended(model, "none")
            pair = ["none"] if same else [defense, "none"]
            some = list(islice(self.pictures, TIMED_PICTURES))
            taken: list[list[float]] = [[] for _ in pair]
            for turn in range(TIMED_TURNS + 1):
                for tested, times in zip(pair, taken, strict=True):
                    started = time.perf_counter()
                    self.score(model, tested, some, "speed")
                    if turn > 0:  # the first turn warms up
                        times.append((time.perf_counter() - started) / len(some))
            medians = [float(np.median(times)) for times in taken]
            self._speed[model, defense] = (medians[0], medians[-1])
        return self._speed[model, defense]

    def conduct(self, model: str, defense: str) -> list[str]:
        """Flags of what the deployed model does while it scores; looked at once."""
        if (model, defense) not in self._conduct:
            deployed, some = self.defended(model, defense), list(islice(self.pictures, 2))
            flags = []
            if differ([self.score(model, defense, some, "conduct") for _ in range(2)]):
                flags.append("undeclared-randomness")
            if optimises(deployed, some[0][None].to(self.lineup.engine.device).float() / 255):
                flags.append("optimises-in-forward")
            self._conduct[model, defense] = flags
        return self._conduct[model, defense]

    def score(self, model: str, defense: str, pixels: Sequence[torch.Tensor], seed: str) -> torch.Tensor:
        """Qualities (N,) of the first N stored pictures, uint8, in float32; what is not finite stays so."""
        scores, deployed = torch.empty(len(pixels)), self.defended(model, defense)
        most = 1 if deployed.info.stochastic else self.lineup.batch(model, defense, halvings=self._halvings)
        device = self.lineup.engine.device
        with frozen(deployed), torch.inference_mode():
            for group in self._groups(len(pixels), most):
                batch = torch.stack([pixels[i] for i in group]).to(device).float() / 255
                own = seeded(seed_of(seed, self.samples[group[0]].image_id)) if deployed.info.stochastic else nullcontext()
                with own:
                    scores[group] = checked_quality(deployed, batch).cpu()
        return scores

    def crafted(self, cell: Cell) -> Crafted:
        """The attacked pictures of a cell, made once for all cells that share them."""
        if cell.crafting in self._crafted:
            self._elsewhere.setdefault(cell.crafting, self._crafted[cell.crafting].seconds)
        else:
            self._crafted[cell.crafting] = self._craft(cell)
            self._elsewhere[cell.crafting] = 0.0  # by this cell itself
            while sum(made.pixels.bytes for made in self._crafted.values()) > CACHED_BYTES and len(self._crafted) > 1:
                self._crafted.popitem(last=False)
        self._crafted.move_to_end(cell.crafting)
        return self._crafted[cell.crafting]

    def _craft(self, cell: Cell) -> Crafted:
        attack: Attack = ATTACKS.build(cell.attack)
        if isinstance(attack, Ensemble):
            return self._craft_members(cell, attack)
        clean = self.clean(*cell.crafted_on, cell.seed)
        seen = self.seen(cell)
        crafter = Crafter(
            cell, attack, self.defended(*seen), clean, self.samples, self.pictures,
            self.lineup.batch(*seen, halvings=self._halvings), self.lineup.engine.device,
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
        made, badness = [], []
        for member, kind in ensemble.members:
            own = replace(cell, attack=member.name, objective=kind)
            made.append(self.crafted(own))
            quality = self.score(*cell.crafted_on, made[-1].pixels, digest(own.crafting, "adv"))
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
