"""Run the missing cells with attacks in processes of their own; this one judges and scores, and loads no attack of others.

What a crafting process sends is JSON and bytes of pixels, which cannot run code here. The images are verified from their
pixels, measured again and scored in this process. What only the crafting process knows is taken from it: the numbers of
passes, and the progress of the attack. All built-in attacks share one process; each attack of others has its own.
"""

from __future__ import annotations

import math
from dataclasses import asdict, make_dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from iqarena.attacks.base import Attack, Generators, Target
from iqarena.attacks.ensemble import Ensemble
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat
from iqarena.bench.cells import Cell, expand
from iqarena.bench.code_hash import set_source_hash
from iqarena.bench.datasets.image_store import AttackedImages
from iqarena.bench.errors import CannotRun, UserError
from iqarena.bench.evaluation.attacked_sets import AttackedSets
from iqarena.bench.evaluation.crafting import Crafted
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.evaluation.judge import inside_threat, quantize
from iqarena.bench.evaluation.record import STATUSES
from iqarena.bench.executors.crafting_process import CraftingProcess
from iqarena.bench.executors.schedule import Outcome, ProgressCallback, WorkerSettings, open_ledger, run_cell_with_retry
from iqarena.bench.metrics.image_distances import distances
from iqarena.bench.registry import ATTACKS, DEFENSES, MODELS, Registry, admit_only, links, parse_spec
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Part, Suite

BUILT_IN = ""
"""Key of the process that all built-in attacks share."""


def run(settings: WorkerSettings, suite: Suite, records: Records, report: ProgressCallback, fresh: bool = False) -> Outcome:
    """Run the missing cells and rebuild the summary; cells that were not run in isolation count as missing.

    Args:
        settings: settings of the crafting processes, and of the evaluator of this process.
        suite: what to run.
        records: where finished cells go.
        report: callback for progress events.
        fresh: run finished cells again too.

    Raises:
        UserError: for more than one model or defense of others, and as in `iqarena.bench.executors.local.run`.
    """
    attacks = _keep_out(suite)
    processes = {BUILT_IN: CraftingProcess(settings)}
    try:
        spelled = {}
        for spec in attacks:
            process = CraftingProcess(settings)
            facts = process.ask(do="describe", attack=spec)
            spelled[spec] = name = str(facts.pop("spelled"))
            processes.setdefault(name, process)
            ATTACKS.stand_in(name, _stand_in(name, facts, processes[name]))
        suite = _respelled(suite, spelled)
        evaluator = settings.evaluator()
        evaluator.attacked = _AttackedElsewhere(evaluator, processes)
        with open_ledger(evaluator, expand(suite), records, report, fresh, settings.keep_images, isolated=True) as ledger:
            for cell_id, cell in ledger.cells.items():
                ledger.start(cell_id)
                record, images, attacked = run_cell_with_retry(evaluator, cell, cell_id, settings.keep_images)
                record["provenance"]["isolated"] = True
                records.write(record, images, attacked)
                ledger.end(cell_id, record)
        return ledger.outcome
    finally:
        for process in processes.values():
            process.end()
        ATTACKS.stand_ins.clear()


def _keep_out(suite: Suite) -> list[str]:
    """See to it that this process loads no plugin of others but the model and the defense under test; return their attacks.

    Raises:
        UserError: if there are several models or several defenses of others, since one could change the scores of another.
    """
    parts: list[Suite | Part] = [suite, *suite.parts]
    specs = {
        "model": {spec for part in parts for spec in [*(part.models or ()), *(part.transfer_from or ())]},
        "defense": {link for part in parts for spec in part.defenses or () for link in links(spec)},
    }
    names = {parse_spec(spec)[0] for kind in specs.values() for spec in kind} | {parse_spec(suite.dataset)[0]}
    admit_only(names)
    for kind, registry in (("model", MODELS), ("defense", DEFENSES)):
        others = sorted(spec for spec in specs[kind] if not _is_built_in(registry, spec))
        if len(others) > 1:
            raise UserError(
                f"--isolate judges one {kind} of others at a time, since one could change the scores of another; run "
                f"{' and '.join(others)} by themselves"
            )
    attacks = dict.fromkeys(entry.attack for part in parts for entry in part.attacks or ())
    return [spec for spec in attacks if not _is_built_in(ATTACKS, spec)]


def _is_built_in(registry: Registry[Any], spec: str) -> bool:
    """Check whether a plugin is one of this project; names that nobody knows are reported where the plugin is built."""
    name, _ = parse_spec(spec)
    entry = registry.entry(name)
    return entry is not None and (entry.cls is None or entry.cls.__module__.startswith(f"{registry.package}."))


def _respelled(suite: Suite, spelled: dict[str, str]) -> Suite:
    """Return a suite with the spelling of attacks that their processes use."""

    def changed(part: Any) -> Any:
        if part.attacks is None:
            return part
        entries = [entry.model_copy(update={"attack": spelled.get(entry.attack, entry.attack)}) for entry in part.attacks]
        return part.model_copy(update={"attacks": entries})

    whole: Suite = changed(suite)
    return whole.model_copy(update={"parts": [changed(part) for part in suite.parts]})


def _stand_in(spec: str, facts: dict[str, Any], process: CraftingProcess) -> Attack:
    """Return an object with the facts that the crafting process told of an attack; it cannot be run here."""
    parameters: dict[str, Any] = facts.pop("parameters")
    source_hash, passes = facts.pop("source_hash"), facts.pop("passes")

    def refusal(self: Attack, threat: Threat, height: int, width: int) -> str:
        said = process.ask(do="refusal", attack=spec, threat=asdict(threat), height=height, width=width)
        return str(said["reason"])

    def run_elsewhere(
        self: Attack, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        raise CannotRun(f"{spec} runs in another process")

    names = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    methods = {"refusal": refusal, "run": run_elsewhere, "passes": property(lambda self: passes and tuple(passes))}
    cls = make_dataclass(
        "Elsewhere", [(name, Any) for name in parameters], bases=(Attack,), namespace={**names, **methods}, frozen=True
    )
    set_source_hash(cls, str(source_hash))
    attack: Attack = cls(**parameters)
    return attack


class _AttackedElsewhere(AttackedSets):
    """Attacked images that other processes make, and this one judges."""

    def __init__(self, evaluator: Evaluator, processes: dict[str, CraftingProcess]) -> None:
        super().__init__(
            evaluator.dataset, evaluator.samples, evaluator.images, evaluator.pool, evaluator.ids, evaluator.scorer
        )
        self._processes = processes

    def _craft(self, cell: Cell) -> Crafted:
        attack = ATTACKS.build(cell.attack)
        if isinstance(attack, Ensemble):
            return self._craft_members(cell, attack)
        process = self._processes.get(cell.attack, self._processes[BUILT_IN])
        told, pixels = process.craft(cell, self._scorer.halvings, [(3, *size) for size in self._images.sizes])
        return self._judged(cell, told, pixels)

    def _judged(self, cell: Cell, told: dict[str, Any], pixels: list[torch.Tensor]) -> Crafted:
        """Verify and measure images that came from a crafting process."""
        count, errors, rows = len(pixels), [str(error) for error in told["errors"]], []
        statuses = [str(status) if status in STATUSES else "failed" for status in told["status"]]
        passes = {name: np.array(told[name], dtype=np.int64).reshape(count) for name in ("forwards", "backwards")}
        attacked = AttackedImages(count)
        for index, image in enumerate(pixels):
            clean = self._images[index][None]
            stored = image[None]
            if not inside_threat(stored, clean, cell.threat).all():
                stored = quantize(stored.float() / 255, clean, cell.threat).pixels
                statuses[index] = max(statuses[index], "violation", key=STATUSES.index)
                errors.append("the crafting process sent images outside the threat model, and they were projected")
            attacked.put(index, stored[0])
            rows.append(distances(stored, clean))
        table = pd.concat(rows, ignore_index=True).assign(**passes, status=statuses)
        curve = {str(name): [math.nan if v is None else v for v in values] for name, values in told["curve"].items()}
        return Crafted(
            attacked, table, float(told["seconds"]), [str(f) for f in told["flags"]], errors, list(told["fits"]), curve
        )
