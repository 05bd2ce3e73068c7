"""`folder`: a directory of pictures with a CSV of labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import torch

from bench.datasets.base import ImageDataset, Sample, read_picture
from bench.errors import UserError


class Folder(ImageDataset):
    """Reads ``ROOT/labels.csv`` with the columns `image` (path below ROOT), `reference_id` and `mos` in [0, 1].

    An optional column `split` holds "training" or "validation". Labels made by `bench.datasets.make_training_set` are
    recognised, and called pseudo-MOS, by the ``consensus.json`` that it leaves beside them.
    """

    name = "folder"

    def __init__(self, root: Path) -> None:
        """Read the table; pictures are opened on demand.

        Args:
            root: the folder.

        Raises:
            UserError: where the table is missing, lacks a column or holds a label outside [0, 1].
        """
        table_file = root / "labels.csv"
        try:
            table = pd.read_csv(table_file, dtype={"image": str, "reference_id": str})
        except FileNotFoundError:
            raise UserError(
                f"{table_file}: not found; a folder data set needs it, with columns image, reference_id, mos"
            ) from None
        except (OSError, ValueError) as error:
            words = " ".join(str(error).split())
            raise UserError(f"{table_file}: not a readable CSV ({words})") from None
        if missing := {"image", "reference_id", "mos"} - set(table.columns):
            raise UserError(f"{table_file}: lacks the column(s) {', '.join(sorted(missing))}")
        if not len(table):
            raise UserError(f"{table_file}: holds no picture")
        unnamed = table[table.image.isna() | table.reference_id.isna()]
        if len(unnamed):
            raise UserError(f"{table_file}: line {unnamed.index[0] + 2}: image and reference_id must not be empty")
        outside = table[~pd.to_numeric(table.mos, errors="coerce").between(0, 1)]
        if len(outside):
            raise UserError(f"{table_file}: line {outside.index[0] + 2}: mos {outside.mos.iloc[0]} is not in [0, 1]")
        self.root = root
        # a file beside the table says so where nobody rated these pictures
        self.label_kind = "pseudo-MOS" if (root / "consensus.json").is_file() else "MOS"
        self.samples = [Sample(i, r, float(m)) for i, r, m in zip(table.image, table.reference_id, table.mos, strict=True)]
        self.splits = list(table["split"]) if "split" in table else ["training"] * len(table)
        self.fingerprint = hashlib.sha256(table_file.read_bytes()).hexdigest()

    @classmethod
    def open(cls, root: Path | None) -> Folder:
        """The folder named by `root`."""
        if root is None:
            raise UserError("the data set 'folder' needs --root DIR, a folder with a labels.csv in it")
        return cls(root)

    def picture(self, index: int) -> torch.Tensor:
        return read_picture(self.root / self.samples[index].image_id)
