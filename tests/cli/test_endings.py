"""Runs that are ended from outside: a closed terminal, a reader that has gone; a line says that finished cells are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from iqarena.bench.process import GO_ON
from tests.support.small_runs import four_images

ROOT = Path(__file__).parents[2]
RUN = [
    *(sys.executable, "-m", "iqarena", "run", "-m", "cnniqa", "-d", "none", "--dataset", "folder", "--root", "data"),
    *("--out", "out", "-a", "fgsm", "-a", "pgd[steps=300,restarts=20]"),
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_closed_terminal_ends_a_run_with_the_line_that_says_what_is_kept(tmp_path: Path) -> None:
    four_images(tmp_path / "data")
    with subprocess.Popen(
        RUN, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "cells to run" in process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        _, errors = process.communicate(timeout=60)
    assert GO_ON in errors
    assert "Traceback" not in errors
    assert process.returncode == 128 + signal.SIGHUP
    assert (tmp_path / "out/summary.csv").is_file()


@pytest.mark.skipif(os.name != "posix", reason="pipes of a shell")
def test_a_reader_that_goes_ends_a_run_with_the_same_line(tmp_path: Path) -> None:
    four_images(tmp_path / "data")
    read, write = os.pipe()
    with subprocess.Popen(
        [*RUN[:-2]], cwd=tmp_path, env=ENVIRONMENT, stdout=write, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(write)
        with os.fdopen(read) as output:
            assert "cells to run" in output.readline()  # as `head -1` does, and goes
        _, errors = process.communicate(timeout=120)
    assert GO_ON in errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    assert process.returncode == 128 + signal.SIGPIPE
    assert list((tmp_path / "out/cells").iterdir())
