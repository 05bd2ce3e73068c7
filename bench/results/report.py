"""The report that `iqarena.evaluate` returns: one row per cell, and further tables of the same cells as attributes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from iqarena.bench.results.curves import effort_curves, ends, integrals, size_curves, transfers
from iqarena.bench.results.ranking import flags_by_family, tracks
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import cells_of


class Report(pd.DataFrame):
    """A data frame with the columns of summary.csv, one row per cell. Slices and results are plain data frames.

    Attributes:
        images: one row per image and cell: cell_id and the columns of images.csv.
        rows: one row per model and defense at each size: robust SROCC and worst mean |shift| with their intervals, the
            attacks that caused them, rank, flags, what is missing.
        signs: flags, signs that a robustness is not real: dataset, model, defense, flag, why; see docs/flags.md.
        sizes: robustness against ε, see `iqarena.bench.results.curves.size_curves`.
        integrals: the same as one number, see `iqarena.bench.results.curves.integrals`.
        effort: progress of attacks by forward passes, see `iqarena.bench.results.curves.effort_curves`.
        transfers: effect of attacks on one model on another, see `iqarena.bench.results.curves.transfers`.
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
        """Build the report of the given cells of a results folder."""
        selected = _SelectedRecords(records, cell_ids)
        summary = records.summary()
        report = cls(summary[summary.cell_id.isin(cell_ids)].reset_index(drop=True))
        report.images = pd.concat(
            [records.images(cell_id).assign(cell_id=cell_id) for cell_id in dict.fromkeys(cell_ids)], ignore_index=True
        )
        report.images.insert(0, "cell_id", report.images.pop("cell_id"))
        report.rows = _rows(selected)
        report.signs = flag_table(selected)
        report.sizes = size_curves(selected)
        report.integrals = integrals(report.sizes)
        report.effort = effort_curves(selected)
        report.transfers = transfers(selected)
        return report


class _SelectedRecords(Records):
    """A results folder that shows only the given cells."""

    def __init__(self, records: Records, cell_ids: Sequence[str]) -> None:
        super().__init__(records.folder)
        self._selected = frozenset(cell_ids)

    def cell_ids(self) -> list[str]:
        """Return the ids of the selected cells."""
        return [cell_id for cell_id in super().cell_ids() if cell_id in self._selected]


def _rows(records: Records) -> pd.DataFrame:
    table = []
    for track, rows in tracks(records).items():
        for row in rows:
            table.append(
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
    return pd.DataFrame(table)


def flag_table(records: Records) -> pd.DataFrame:
    """Return all flags of a results folder, in the order of its board: dataset, model, defense, flag, why."""
    flags = flags_by_family(cells_of(records))
    families = sorted(flags, key=lambda family: (family[0], *family[3:], *family[1:3]))
    rows = [(family[0], *family[3:], *flag) for family in families for flag in flags[family]]
    return pd.DataFrame(rows, columns=["dataset", "model", "defense", "flag", "why"])
