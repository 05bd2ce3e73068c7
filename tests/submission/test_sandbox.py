"""The sandbox process for submitted code: what it can see, and its resource limits."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from iqarena.bench.errors import UserError
from iqarena.bench.submission.sandbox import Limits, environment, run

LIMITS = Limits(seconds=120, memory_mib=512, file_mib=8, disk_mib=64, files=64)


def go(folder: Path, *args: str, limits: Limits = LIMITS) -> None:
    run("tests.support.sandboxed", list(args), folder, limits, 1)


def test_it_knows_nothing_of_this_process_and_lives_in_a_folder_of_its_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("IQARENA_DATA", "secret")
    go(tmp_path, "look")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["folder"] == facts["home"] == str(tmp_path.resolve())
    assert "secret" not in facts["environment"].values()
    own = {"LC_CTYPE", "PWD", "SHLVL", "_", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_DUPLICATE_LIB_OK"}  # set by the child
    assert set(facts["environment"]) - own == set(environment(tmp_path, 1))


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("take", "its code failed: MemoryError"),
        ("write", "its code (failed: OSError|was|failed: it was ended by SIGXFSZ)"),
        ("open", "its code failed: OSError.*Too many open files"),
        ("fill", "its code was stopped: it wrote more than 64 MiB"),
        ("shout", r"its code failed: \?\[2J\?\[31mall is well$"),
        ("swap", "its code failed: swapped$"),
        ("link", "its code failed: swapped$"),
        ("nothing-else", "^$"),
    ],
)
def test_what_takes_too_much_is_stopped_and_told_in_a_line(deed: str, message: str, tmp_path: Path) -> None:
    if deed == "nothing-else":
        go(tmp_path, deed)
        return
    with pytest.raises(UserError, match=message) as stopped:
        go(tmp_path, deed)
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "large").exists() or (tmp_path / "large").stat().st_size <= 8 << 20


def test_what_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its code was stopped: it took more than 1 s"):
        go(tmp_path, "sleep", limits=Limits(seconds=1))


def test_it_has_no_network_where_the_system_allows_that(tmp_path: Path) -> None:
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this system lets nobody give up the network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        go(tmp_path, "call", str(server.getsockname()[1]))
    assert not (tmp_path / "reached").exists()


def test_what_it_starts_ends_with_it(tmp_path: Path) -> None:
    go(tmp_path, "leave", str(tmp_path / "child"))
    child = int((tmp_path / "child").read_text())
    for _ in range(600):  # its new parent has to reap it
        try:
            os.kill(child, 0)
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return
        if state == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it goes on")
