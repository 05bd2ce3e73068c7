"""Kills runs at random moments and goes on, until they are done; then compares with a run that nobody disturbed.

    python tests/faults.py --kills 100 --executor local
    python tests/faults.py --kills 20 --executor processes --victim worker

Thirty small cells on the demo pictures. `--victim run` kills the whole run (SIGKILL, its workers with it), `worker` one of
its workers. Exits with 1 where the two tables differ in anything but `seconds`, or where a run ends in another way.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
ATTACKS = ["random-noise", "random-sign", "fgsm", "pgd[steps=2]", "score-reflection[steps=2]"]


def command(out: Path, executor: str) -> list[str]:
    """A run of thirty cells: five attacks, three defenses, two settings."""
    words = [sys.executable, "-m", "bench", "run", "-m", "resnet-iqa", "--limit", "4", "--out", str(out)]
    words += [word for defense in ("none", "jpeg", "cprl") for word in ("-d", defense)]
    words += [word for attack in ATTACKS for word in ("-a", attack)]
    return [*words, "--executor", executor, "--workers", "1" if executor == "local" else "2"]


def started(out: Path, executor: str) -> subprocess.Popen[str]:
    """The run, in a process group of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(out, executor), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


def workers_of(pid: int) -> list[int]:
    """Processes below a process, those that keep books for others left out."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    rows = [line.strip().split(maxsplit=1) for line in listed.stdout.splitlines()]
    return [int(number) for number, words in rows if "spawn_main" in words]


def table(out: Path) -> pd.DataFrame:
    """The summary without what may differ."""
    return pd.read_csv(out / "summary.csv").drop(columns="seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--executor", choices=("local", "processes"), default="local")
    parser.add_argument("--victim", choices=("run", "worker"), default="run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        calm, wild = Path(scratch) / "calm", Path(scratch) / "wild"
        began = time.monotonic()
        if started(calm, "local").wait() != 0:
            print("the undisturbed run failed")
            return 1
        length = time.monotonic() - began
        kills = finished = 0
        while kills < options.kills:
            run = started(wild, options.executor)
            try:
                _, said = run.communicate(timeout=draw.uniform(0.2, 1.1) * length)
            except subprocess.TimeoutExpired:
                victims = [run.pid] if options.victim == "run" else workers_of(run.pid)
                if not victims:
                    run.wait()
                    continue
                if options.victim == "run":
                    os.killpg(run.pid, signal.SIGKILL)
                else:
                    os.kill(draw.choice(victims), signal.SIGKILL)
                kills += 1
                _, said = run.communicate()
                if options.victim == "run":
                    continue
            if run.returncode not in (0, 3):
                print(f"a run ended with {run.returncode}: {said.strip()}")
                return 1
            finished += 1
            if not table(wild).equals(table(calm)):
                break
            for record in sorted((wild / "cells").iterdir())[:: draw.choice((1, 2, 3))]:  # there is work again
                (record / "record.json").unlink()
        run = started(wild, options.executor)
        last = run.wait()
        cells = len(table(calm))
        same = last == 0 and table(wild).equals(table(calm))
    print(f"{kills} kills of a {options.victim} ({options.executor}); a run takes {length:.0f} s, {finished} ended between")
    print(f"the last table of {cells} cells is {'that of the undisturbed run' if same else 'ANOTHER'}")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
