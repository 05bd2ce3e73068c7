"""Fault injection: every fault is made to happen, and the resulting table is compared with an undisturbed run's.

    python -m tests.audits.faults [--kills 100] [--only WORD]… [--write]

Thirty small cells, run by the harness as `iqarena run` does. A killed run is a forked process, so that a hundred of them are
affordable. `--write` puts the table into docs/performance.md. Exits with 1 if a fault has another outcome than it should.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import torch

from iqarena.bench.errors import UserError
from iqarena.bench.executors import Executor, execute
from iqarena.bench.executors.schedule import Outcome
from iqarena.bench.process import use_threads
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Suite, validated
from tests.speed import page
from tests.support.small_runs import attacker, four_images, go, suite, table

ATTACKS = ["random-noise", "random-sign", "fgsm", "pgd[steps=2]", "score-reflection[steps=2]"]
CELLS = 30
LIMIT_MIB = 4096


@dataclass(frozen=True)
class FaultOutcome:
    """The outcome of an injected fault."""

    fault: str
    injected: str
    observed: str
    passed: bool

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'} {self.fault}: {self.injected}; {self.observed}"


class FaultSetup:
    """The setup of all faults: images, an undisturbed run's table, and that run's duration."""

    def __init__(self, folder: Path, kills: int, draw: random.Random) -> None:
        self.folder, self.kills, self.draw = folder, kills, draw
        self.root = four_images(folder / "images")
        self.suite = thirty()
        self.run("first")  # imports what there is to import
        started = time.monotonic()
        self.run("calm")
        self.length = time.monotonic() - started
        self.undisturbed = table(folder / "calm")
        assert len(self.undisturbed) == CELLS
        assert set(self.undisturbed.status) == {"ok"}

    def run(self, name: str, executor: Executor = "local", workers: int = 1) -> Outcome:
        """Run the thirty cells in a folder."""
        return go(self.suite, self.root, self.folder / name, executor, workers)

    def same(self, name: str, but: Collection[str] = ()) -> bool:
        """Return whether a folder has the undisturbed run's table, except for `seconds` and the numbers of some cells."""
        rows = table(self.folder / name)
        exact = ~rows.cell_id.isin(but)
        columns = ["cell_id", "status", "n_images"]
        return rows[exact].equals(self.undisturbed[exact]) and rows[columns].equals(self.undisturbed[columns])

    def halved(self, name: str) -> list[str]:
        """Return the cells that ran with half the batch, and those that share their attacked images."""
        records = list(Records(self.folder / name).all())
        shared = {record["crafting"] for record in records if record["provenance"]["halvings"]}
        return [record["cell_id"] for record in records if record["crafting"] in shared]

    def forked(self, work: Callable[[], object]) -> int:
        """Run `work` in a forked copy of this process; return the child's process id."""
        pid = os.fork()
        if pid == 0:
            code = 1
            with suppress(BaseException):
                work()
                code = 0
            os._exit(code)
        return pid


def thirty() -> Suite:
    """Return the suite of thirty cells: five attacks, three defenses, two settings."""
    return validated(
        {"models": ["cnniqa"], "dataset": "folder", "defenses": ["none", "jpeg", "flip"], "batch": 4,
         "attacks": [{"attack": attack} for attack in ATTACKS]}
    )  # fmt: skip


# --- the faults


def run_killed(setup: FaultSetup) -> FaultOutcome:
    """Kill a run by SIGKILL, at any moment from its start to past its end."""
    kills = rounds = wrong = 0
    while kills < setup.kills:
        name = f"killed-{rounds}"
        pid = setup.forked(lambda name=name: setup.run(name))  # type: ignore[misc]
        time.sleep(setup.draw.uniform(0.02, 1) * setup.length)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        else:
            rounds += 1
            wrong += os.WEXITSTATUS(status) != 0 or not setup.same(name)
    setup.run(f"killed-{rounds}")
    wrong += not setup.same(f"killed-{rounds}")
    return FaultOutcome(
        "a run is killed",
        f"SIGKILL at {kills} random moments of runs of {CELLS} cells, each resumed",
        f"{rounds + 1} runs came to their end so, {wrong} of them with another `summary.csv` but for `seconds`",
        wrong == 0,
    )


def worker_killed(setup: FaultSetup) -> FaultOutcome:
    """Kill one of two worker processes by SIGKILL: at most its cell is lost, and the next run repeats it."""
    kills = rounds = wrong = lost = halved = 0
    ended = threading.Event()

    def killer() -> None:
        nonlocal kills
        while not ended.wait(setup.draw.uniform(0.05, 0.6) * setup.length) and kills < setup.kills:
            victims = [child for child in multiprocessing.active_children() if child.pid]
            if victims:
                with suppress(ProcessLookupError):
                    os.kill(setup.draw.choice(victims).pid or 0, signal.SIGKILL)
                    kills += 1

    thread = threading.Thread(target=killer)
    thread.start()
    while kills < setup.kills or rounds == 0:
        name = f"workers-{rounds}"
        while (outcome := setup.run(name, "processes", 2)).failed:
            lost += len(outcome.failed)
        rounds += 1
        tried_again = setup.halved(name)
        halved += len(tried_again)
        wrong += not setup.same(name, but=tried_again)
    ended.set()
    thread.join()
    return FaultOutcome(
        "a worker is killed",
        f"SIGKILL to one of two `processes` at {kills} random moments",
        f"{lost} cells lost their process twice, were recorded as failed and made by the next run; {rounds} runs came to "
        f"their end, {wrong} of them with another row but for {halved} cells on images that were attacked "
        "again in half the batch, which rounds otherwise",
        wrong == 0,
    )


def disk_full(setup: FaultSetup) -> FaultOutcome:
    """Run on a file system without room for all records, or with a limit on file size."""
    small, name = setup.folder / "small", "full"
    small.mkdir()
    (setup.folder / name).mkdir()
    mounted = sys.platform == "linux" and os.geteuid() == 0
    if mounted:
        size = ["-o", "size=256k"]
        mount = ["mount", "-t", "tmpfs", *size, "none", str(small)]
        mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    message = ""
    try:
        if mounted:
            try:
                execute(setup.suite, setup.root, Records(small / "out"), lambda *_: None)
            except UserError as error:
                message = str(error)
            kept = len(list((small / "out" / "cells").glob("[!.]*")))
            shutil.copytree(small / "out", setup.folder / name, dirs_exist_ok=True)  # there is room
        else:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
            try:
                setup.run(name)
            except UserError as error:
                message = str(error)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            kept = len(list((setup.folder / name / "cells").glob("[!.]*")))
    finally:
        if mounted:
            subprocess.run(["umount", str(small)], check=False)
    outcome = setup.run(name)
    passed = "cannot be written" in message and outcome.kept == kept and setup.same(name)
    return FaultOutcome(
        "the disk is full",
        "a tmpfs of 256 KiB" if mounted else "files of 3,000 bytes at most",
        f"one line, “{_plain(message, setup)}”; {outcome.kept} records were kept, and the run went on to the same table "
        "where there was room",
        passed,
    )


def two_runs(setup: FaultSetup) -> FaultOutcome:
    """Start a second run in a folder, from another process."""
    holder, ready = os.pipe()

    def hold() -> None:
        with Records(setup.folder / "shared").writing():
            os.write(ready, b"1")
            time.sleep(600)

    pid = setup.forked(hold)
    os.read(holder, 1)
    message = ""
    try:
        setup.run("shared")
    except UserError as error:
        message = str(error)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    setup.run("shared")
    return FaultOutcome(
        "two runs in one folder",
        "a second one begins, and again after SIGKILL of the first",
        f"one line, “{_plain(message, setup)}”; the lock goes with its process, and the next run left the same table",
        "another run writes to it" in message and setup.same("shared"),
    )


def clock_back(setup: FaultSetup) -> FaultOutcome:
    """Run with a clock that goes back by an hour whenever it is read."""
    looks = 0

    class Back(datetime):
        @classmethod
        def now(cls, tz: object = UTC) -> datetime:  # type: ignore[override]
            nonlocal looks
            looks += 1
            return datetime(2020, 1, 1, tzinfo=UTC) - looks * timedelta(hours=1)

    def back() -> float:
        return Back.now().timestamp()

    with mock.patch("iqarena.bench.results.provenance.datetime", Back), mock.patch("time.time", back):
        setup.run("back")
    kept = setup.run("back").kept
    return FaultOutcome(
        "the clock goes backwards",
        f"an hour at each of {looks} looks",
        f"the same table; {kept} cells are done for the next run",
        kept == CELLS and setup.same("back") and looks >= CELLS,
    )


def plugins(setup: FaultSetup) -> list[FaultOutcome]:
    """Run misbehaving plugins beside one that behaves."""
    failed, restored = "is recorded as failed: ", "goes well, and what it changed is put back"
    cases = {
        "leaks memory": ("leak", {"memory_mib": LIMIT_MIB}, "", "ends ok, and would end at the suite's `memory_mib`"),
        "asks for too much memory": ("hoard", {"memory_mib": LIMIT_MIB}, "out of memory", failed),
        "hangs": ("hang", {"seconds": 5}, "it took longer than the time limit", failed),
        "hangs and takes no exception": ("stubborn", {"seconds": 5}, "it took longer than the time limit", failed),
        "forks": ("fork", {}, "", "goes well; the child that came back is ended"),
        "calls sys.exit": ("quit", {}, "SystemExit: bye", failed),
        "kills its process": ("kill", {}, "its process died", failed),
        "changes random streams, dtype, folder": ("stir", {}, "", restored),
        "changes a weight": ("retrain", {}, "the weights of cnniqa were changed", failed),
    }
    outcomes = []
    go(suite("nothing"), setup.root, setup.folder / "good")
    expected = table(setup.folder / "good")
    for index, (fault, (deed, more, message, what)) in enumerate(cases.items()):
        folder, executor = setup.folder / f"plugin-{index}", "processes" if deed == "kill" else "local"
        state = (torch.get_default_dtype(), random.getstate(), torch.get_rng_state().tolist(), Path.cwd())
        outcome = go(suite(deed, "nothing", **more), setup.root, folder, executor)  # type: ignore[arg-type]
        clean = state == (torch.get_default_dtype(), random.getstate(), torch.get_rng_state().tolist(), Path.cwd())
        errors = [error for cell, _, error in outcome.failed if cell.attack == attacker(deed)]
        left = table(folder)
        neighbour = left[left.attack == attacker("nothing")].reset_index(drop=True)
        fine = (len(errors) == 1 and message in errors[0]) if message else not outcome.failed
        fine = fine and outcome.done == 2 and neighbour.astype(str).equals(expected.astype(str)) and clean
        outcomes.append(FaultOutcome(
            f"a plugin {fault}", "beside one that does nothing wrong",
            f"its cell {what}{f'“{errors[0]}”' if errors else ''}; the other one's row is the same", fine,
        ))  # fmt: skip
    return outcomes


def leak_until_limit(setup: FaultSetup) -> FaultOutcome:
    """Run a plugin that leaks 200 MiB a cell in a process with little more memory than torch needs."""
    chosen = suite("leak", "nothing", memory_mib=1800, threats=[{"eps": (1 + n) / 255} for n in range(12)])
    outcome = go(chosen, setup.root, setup.folder / "leak", "local")
    return FaultOutcome(
        "a plugin leaks 200 MiB a cell",
        f"{outcome.done} cells, `memory_mib: 1800`",
        f"{len(outcome.failed)} failed: a process that runs out of memory is replaced, and its cell tried again",
        outcome.done == 24 and not outcome.failed,
    )


def moved(setup: FaultSetup) -> FaultOutcome:
    """Continue a copy of a folder with half of its cells, with both folder and images moved."""
    setup.run("here")
    elsewhere = setup.folder / "elsewhere"
    shutil.copytree(setup.folder / "here", elsewhere / "out")
    shutil.copytree(setup.root, elsewhere / "images")
    cells = sorted((elsewhere / "out" / "cells").iterdir())
    for cell in cells[::2]:
        shutil.rmtree(cell)
    outcome = go(setup.suite, elsewhere / "images", elsewhere / "out", "local")
    return FaultOutcome(
        "a folder is copied elsewhere and continued",
        f"{CELLS // 2} of {CELLS} cells, and the images under another path",
        f"{outcome.kept} cells were kept, {outcome.done} made; the same table",
        outcome.kept == CELLS // 2 and setup.same("elsewhere/out"),
    )


FAULTS: list[Callable[[FaultSetup], FaultOutcome | list[FaultOutcome]]] = [
    run_killed, worker_killed, disk_full, two_runs, clock_back, moved, plugins, leak_until_limit,
]  # fmt: skip


def _plain(message: str, setup: FaultSetup) -> str:
    """Remove this machine's folders from a message."""
    return message.replace(str(setup.folder), "…")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=[fault.__name__ for fault in FAULTS], default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    use_threads(1)
    outcomes: list[FaultOutcome] = []
    with tempfile.TemporaryDirectory() as scratch:
        setup = FaultSetup(Path(scratch), options.kills, random.Random(options.seed))
        print(f"{CELLS} cells take {setup.length:.1f} s", flush=True)
        for fault in FAULTS:
            if options.only is None or fault.__name__ in options.only:
                results = fault(setup)
                for outcome in results if isinstance(results, list) else [results]:
                    outcomes.append(outcome)
                    print(outcome, flush=True)
    if options.write:
        rows = [
            f"| {outcome.fault} | {outcome.injected} | {outcome.observed} | {'✓' if outcome.passed else '**missed**'} |"
            for outcome in outcomes
        ]
        head = [
            f"`python -m tests.audits.faults --kills {options.kills}`",
            "",
            "| fault | injected | outcome | |",
            "|---|---|---|---|",
        ]
        page.write_section("faults", "\n".join([*head, *rows]))
    return int(not all(outcome.passed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
