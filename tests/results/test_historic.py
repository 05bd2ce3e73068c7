"""Records of every version that there was still load, go into today's table, and are checked as they were then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from iqarena.bench.results.store import SUMMARY_COLUMNS, VERSION, Records

HISTORIC = Path(__file__).parent / "historic"
VERSIONS = {1: 2, 2: 1, 3: 1}
"""Records of each version."""


def test_every_version_has_a_folder() -> None:
    found = {int(folder.name): len(list((folder / "cells").iterdir())) for folder in HISTORIC.iterdir() if folder.is_dir()}
    assert found == VERSIONS
    assert max(found) == VERSION, "put a record of the new version here, and leave the old ones"


@pytest.mark.parametrize("version", VERSIONS)
def test_records_of_a_version_load_and_go_into_the_table(version: int, tmp_path: Path) -> None:
    shutil.copytree(HISTORIC / str(version), tmp_path / "out")
    records = Records(tmp_path / "out")
    records.rebuild_summary()
    rows = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert list(rows.columns) == SUMMARY_COLUMNS
    rows = rows.set_index("cell_id")
    assert len(rows) == VERSIONS[version]
    for folder in (HISTORIC / str(version) / "cells").iterdir():
        written = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        assert written["version"] == version
        record = records.read(folder.name)
        assert record is not None
        assert record["measures"] == written["measures"]
        assert isinstance(record["crafting"], str)
        assert record["images"] == []
        row = rows.loc[folder.name]
        assert row.srocc_adv == pytest.approx(written["measures"]["srocc_adv"], rel=1e-15)  # a float as text and back
        assert row.attack == written["cell"]["attack"]
        scored, images = records.scores(folder.name), records.images(folder.name)
        assert len(scored.adv) == len(images) == written["n_images"]
        # both are of the same file, read by two readers
        assert scored.adv == pytest.approx(images.sort_values(["image_id"]).adv_quality.to_numpy(), abs=1e-12)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_record_whose_images_table_was_edited_is_not_taken(version: int, tmp_path: Path) -> None:
    shutil.copytree(HISTORIC / str(version), tmp_path / "out")
    records = Records(tmp_path / "out")
    folder = next((tmp_path / "out" / "cells").iterdir())
    table = (folder / "images.csv").read_text()
    (folder / "images.csv").write_text(table.replace("ok", "ko", 1))
    assert records.read(folder.name) is None


@pytest.mark.parametrize("version", [2, 3])  # from the first version with a hash of the record on
def test_a_record_whose_numbers_were_edited_is_not_taken(version: int, tmp_path: Path) -> None:
    shutil.copytree(HISTORIC / str(version), tmp_path / "out")
    file = next((tmp_path / "out" / "cells").iterdir()) / "record.json"
    text = file.read_text(encoding="utf-8")
    srocc = json.dumps(json.loads(text)["measures"]["srocc_adv"])
    for changed in (text.replace(srocc, "0.9", 1), text.replace('"\n}\n', '",\n "status": "failed"\n}\n')):
        assert changed != text
        file.write_text(changed, encoding="utf-8")
        assert Records(tmp_path / "out").read(file.parent.name) is None
        assert list(Records(tmp_path / "out").all()) == []
    file.write_text(text, encoding="utf-8")
    assert Records(tmp_path / "out").read(file.parent.name) is not None


def test_the_layout_of_a_record_of_version_2_does_not_matter(tmp_path: Path) -> None:
    shutil.copytree(HISTORIC / "2", tmp_path / "out")
    file = next((tmp_path / "out" / "cells").iterdir()) / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")), indent=4), encoding="utf-8")
    assert Records(tmp_path / "out").read(file.parent.name) is not None
