"""The report that `iqarena.evaluate` returns: one row per cell, and further tables of the same cells as attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from iqarena.bench.results.curves import effort_curves, ends, integrals, size_curves, transfers
from iqarena.bench.results.ranking import flags_by_family, tracks
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import cells_of


class Table(pd.DataFrame):
    """A data frame whose attribute `flags` is its column of that name, as its other columns are attributes."""

    @property
    def flags(self) -> pd.Series:
        """The column `flags`; where there is none, the flags that pandas keeps of every frame."""
        frame = pd.DataFrame(self)
        if "flags" not in frame:
            return frame.flags
        column = frame["flags"]
        object.__setattr__(column, "allows_duplicate_labels", True)  # pandas asks `flags` of every frame for it
        return column

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled; pandas writes its own flags too, which it looks for in `flags`."""
        own = {"_metadata": self._metadata, "attrs": self.attrs, **{name: getattr(self, name) for name in self._metadata}}
        frame: dict[str, Any] = dict(pd.DataFrame(self).__getstate__())  # type: ignore[call-overload]
        return frame | own


class Report(Table):
    """A data frame with the columns of summary.csv, one row per cell. Slices and results are plain data frames.

    Attributes:
        images: one row per image and cell: cell_id and the columns of images.csv.
        rows: one row per model and defense at each size: robust SROCC and worst mean |shift| with their intervals, the
            attacks that caused them, rank, flags, what is missing, the number of images without a label.
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


def _rows(records: Records) -> Table:
    table = []
    for track, rows in tracks(records).items():
        for row in rows:
            table.append(
                {
                    **{name: value for name, value in track._asdict().items() if name != "fingerprint"},
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
                    "unlabelled": row.unlabelled,
                    "fingerprint": track.fingerprint,
                }
            )
    return Table(table)


def flag_table(records: Records) -> pd.DataFrame:
    """Return all flags of a results folder, in the order of its board: dataset, model, defense, flag, why."""
    flags = flags_by_family(cells_of(records))
    families = sorted(flags, key=lambda family: (family[0], *family[4:], *family[1:4]))
    rows = [(family[0], *family[4:], *flag) for family in families for flag in flags[family]]
    return pd.DataFrame(rows, columns=["dataset", "model", "defense", "flag", "why"])
