"""What `bench.evaluate` gives back: one row a cell, and everything else that its cells tell, as data frames beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from iqarena.bench.results.curves import effort_curves, ends, integrals, size_curves, transfers
from iqarena.bench.results.ranking import signs_of, tracks
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import cells_of


class Report(pd.DataFrame):
    """A data frame with the columns of summary.csv, one row a cell. What is taken from it is a plain data frame.

    Attributes:
        images: a row an image and cell: cell_id and the columns of images.csv.
        rows: a row a model and defense at each size: robust SROCC and worst mean |shift| with their intervals, the attacks
            that did them, rank, flags, what is missing.
        signs: flags, signs that a robustness is not real: dataset, model, defense, flag, why; see docs/flags.md.
        sizes: robustness against ε, see `iqarena.bench.results.curves.size_curves`.
        integrals: the same in one number, see `iqarena.bench.results.curves.integrals`.
        effort: how far attacks had come after so many forward passes, see `iqarena.bench.results.curves.effort_curves`.
        transfers: what attacks on one model do to another, see `iqarena.bench.results.curves.transfers`.
    """

    _metadata = ["images", "rows", "signs", "sizes", "integrals", "effort", "transfers"]  # noqa: RUF012 - as pandas wants it

    images: pd.DataFrame
    rows: pd.DataFrame
    signs: pd.DataFrame
    sizes: pd.DataFrame
    integrals: pd.DataFrame
    effort: pd.DataFrame
    transfers: pd.DataFrame

    @classmethod
    def of(cls, records: Records, cell_ids: Sequence[str]) -> Report:
        """From some cells of a results folder."""
        chosen = _Some(records, cell_ids)
        table = records.summary()
        report = cls(table[table.cell_id.isin(cell_ids)].reset_index(drop=True))
        report.images = pd.concat(
            [records.images(cell_id).assign(cell_id=cell_id) for cell_id in dict.fromkeys(cell_ids)], ignore_index=True
        )
        report.images.insert(0, "cell_id", report.images.pop("cell_id"))
        report.rows = _rows(chosen)
        report.signs = diagnosed(chosen)
        report.sizes = size_curves(chosen)
        report.integrals = integrals(report.sizes)
        report.effort = effort_curves(chosen)
        report.transfers = transfers(chosen)
        return report


class _Some(Records):
    """A results folder as if it held some cells only."""

    def __init__(self, records: Records, cell_ids: Sequence[str]) -> None:
        super().__init__(records.folder)
        self.cell_ids = frozenset(cell_ids)

    def all(self) -> Iterator[dict[str, Any]]:
        yield from (record for record in super().all() if record["cell_id"] in self.cell_ids)


def _rows(records: Records) -> pd.DataFrame:
    found = []
    for track, rows in tracks(records).items():
        for row in rows:
            found.append(
                {
                    **track._asdict(),
                    "model": row.model,
                    "defense": row.defense,
                    "rank": row.rank,
                    **ends("clean_srocc", row.clean),
                    **ends("robust_srocc", row.robust),
                    "worst_attack": row.worst_attack,
                    **ends("shift", row.shift),
                    "shift_attack": row.shift_attack,
                    "clean_iqr": row.spread,
                    "noise_shift": row.noise[0],
                    "cost_ratio": row.cost_ratio,
                    "flags": " ".join(row.flags),
                    "missing": "; ".join(row.missing),
                }
            )
    return pd.DataFrame(found)


def diagnosed(records: Records) -> pd.DataFrame:
    """All flags of a results folder, as its board shows them: dataset, model, defense, flag, why."""
    signs = signs_of(cells_of(records))
    families = sorted(signs, key=lambda family: (family[0], *family[3:], *family[1:3]))
    found = [(family[0], *family[3:], *flag) for family in families for flag in signs[family]]
    return pd.DataFrame(found, columns=["dataset", "model", "defense", "flag", "why"])
