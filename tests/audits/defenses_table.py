"""Filters and certified defenses under oblivious and adaptive attackers: the tables of docs/defenses-tried.md.

    iqarena run defenses --executor processes --workers 2 --out runs/defenses
    python -m tests.audits.defenses_table runs/defenses

Reads the records of a run and measures how far each surrogate is from the deployed defense. Exits with 1 if a cell did not
end ok or where, averaged over an attack's images and defenses, the adaptive attacker is weaker than the oblivious one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import UserError
from iqarena.bench.inference.loading import load_model
from iqarena.bench.inference.target import frozen
from iqarena.bench.registry import DEFENSES, parse_spec
from iqarena.bench.results.report import flag_table
from iqarena.bench.results.store import Records
from iqarena.defenses.base import DoesNotApply

SETTINGS = ("oblivious", "adaptive")
IMAGES = 16
"""Number of images, as in the suite."""
Cells = dict[tuple[str, str], dict[str, Any]]
"""Records of one defense, by attack and setting."""


def by_defense(records: Records) -> dict[str, Cells]:
    """Return the records by defense.

    Raises:
        UserError: if a cell did not end ok.
    """
    cells_by_defense: dict[str, Cells] = {}
    for record in records.all():
        cell = record["cell"]
        attack = parse_spec(cell["attack"])[0]
        if record["status"] != "ok":
            raise UserError(f"{cell['defense']} under {attack}, {cell['setting']}: {record['status']} {record['errors']}")
        cells_by_defense.setdefault(cell["defense"], {})[attack, cell["setting"]] = record
    kinds = {spec: next(iter(cells.values()))["defense"]["kind"] for spec, cells in cells_by_defense.items()}
    return {
        spec: cells_by_defense[spec]
        for spec in sorted(cells_by_defense, key=lambda spec: (spec != "none", kinds[spec] == "certified", spec))
    }


def surrogate_error(spec: str, model_name: str) -> float:
    """Return the largest quality difference between surrogate and deployed model, under one seed, on 16 demo images."""
    model, demo = load_model(model_name), Demo()
    defense = DEFENSES.build(spec)
    images = torch.stack([demo.image(i) for i in demo.spread(IMAGES)]).float() / 255
    qualities = []
    for variant in (defense.protect(model), defense.surrogate(model)):
        with frozen(variant), torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(0)
            qualities.append(torch.cat([variant.quality(image[None]) for image in images]))
    return float((qualities[0] - qualities[1]).abs().max())


def strength_table(cells_by_defense: dict[str, Cells], flags: dict[str, list[str]]) -> Iterator[str]:
    """Yield the lines of a table: SROCC after each attack and, in brackets, the mean |shift| of quality, by setting."""
    attacks = sorted({attack for cells in cells_by_defense.values() for attack, _ in cells})
    yield f"| defense | surrogate | apart | cost | clean | {' | '.join(attacks)} | flags |"
    yield f"|---|---|--:|--:|--:|{'---|' * len(attacks)}---|"
    for spec, cells in cells_by_defense.items():
        first = next(iter(cells.values()))
        try:
            distance = f"{surrogate_error(spec, first['cell']['model']):.2g}"
        except DoesNotApply:
            distance = ""
        ratio = np.median(
            [r["score_seconds_an_image"]["defended"] / r["score_seconds_an_image"]["undefended"] for r in cells.values()]
        )
        kind = first["defense"]["surrogate"]
        columns = [_settings_text(cells, attack, bare=spec == "none") for attack in attacks]
        raised = " ".join(f"`{flag}`" for flag in flags.get(spec, []))
        clean = f"{first['measures']['srocc_clean']:.2f}"
        yield "| " + " | ".join([f"`{spec}`", kind, distance, f"{ratio:.1f}", clean, *columns, raised]) + " |"


def _settings_text(cells: Cells, attack: str, bare: bool) -> str:
    texts = []
    for setting in SETTINGS[:1] if bare else SETTINGS:
        record = cells.get((attack, setting))
        measures = record["measures"] if record else None
        texts.append(f"{measures['srocc_adv'] or 0:.2f} ({measures['abs_gain']:.2f})".replace("-", "−") if measures else "?")
    return " → ".join(texts)


def certificate_table(cells_by_defense: dict[str, Cells]) -> Iterator[str]:
    """Yield the lines of a table of certified measures and the time to certify an image."""
    yield "| defense | clean SROCC | certified SROCC | mean width | left | seconds an image |"
    yield "|---|--:|--:|--:|--:|--:|"
    for spec, cells in cells_by_defense.items():
        first = next(iter(cells.values()))
        if "certificate" in first:
            measures, seconds = first["measures"], first["certificate"]["seconds"] / first["n_images"]
            violations = sum(int(record["measures"]["certificates_left"]) for record in cells.values())
            values = (measures["srocc_clean"], measures["certified_srocc"], measures["certificate_width"])
            yield f"| `{spec}` | {' | '.join(f'{value:.2f}' for value in values)} | {violations} | {seconds:.1f} |"


def means(cells_by_defense: dict[str, Cells]) -> dict[str, tuple[float, float, int]]:
    """Return by attack the mean |shift| over defenses, oblivious and adaptive, and the number of defenses that have both."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for spec, cells in cells_by_defense.items():
        for attack in {attack for attack, _ in cells}:
            both = [cells[attack, setting]["measures"]["abs_gain"] for setting in SETTINGS if (attack, setting) in cells]
            if len(both) == 2 and spec != "none":
                pairs.setdefault(attack, []).append((both[0], both[1]))
    return {attack: (*np.mean(values, axis=0), len(values)) for attack, values in sorted(pairs.items())}


def main(folder: Path) -> int:
    """Print the tables."""
    records = Records(folder)
    cells_by_defense = by_defense(records)
    flags: dict[str, list[str]] = {}
    notes = []
    for row in flag_table(records).itertuples():
        flags.setdefault(row.defense, []).append(row.flag)
        notes.append(f"* `{row.defense}`: `{row.flag}`: {row.why}")
    print(*strength_table(cells_by_defense, flags), "", *notes, "", *certificate_table(cells_by_defense), "", sep="\n")
    fine = True
    for attack, (ignorant, knowing, count) in means(cells_by_defense).items():
        fine &= knowing >= ignorant
        print(f"* {attack}: mean |shift| over {count} defenses {ignorant:.3f} oblivious, {knowing:.3f} adaptive")
    return 0 if fine else 1


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except UserError as error:
        sys.exit(str(error))
