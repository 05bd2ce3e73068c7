"""Settings of the process: memory that is freed, threads that wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iqarena.bench.errors import describe
from iqarena.bench.process import Stopped, asks_to_stop, shorten_waiting, stoppable

ROOT = Path(__file__).parents[1]

FAULTS = """
import resource
import numpy as np
from iqarena.bench.process import keep_freed_memory
{first}

def fill(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        several = [np.full(2**21, 1.0) for _ in range(4)]  # 16 MiB each, as activations are
        del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fill(2)
print(fill(10))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_that_was_freed_is_not_fetched_anew() -> None:
    """A process that keeps freed memory takes no new pages; one that does not faults in those of every array again."""

    def faults(first: str) -> int:
        code = FAULTS.format(first=first)
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    kept, usual = faults("keep_freed_memory()"), faults("")
    if usual < 100:
        pytest.skip("this C library keeps it by itself")
    assert kept < usual / 10


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nobody has said how threads wait."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("unset")
def test_threads_wait_shortly_unless_the_user_has_said_how_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    shorten_waiting()
    assert (os.environ["GOMP_SPINCOUNT"], os.environ["KMP_BLOCKTIME"]) == ("7", "1")
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    shorten_waiting()
    assert not {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys()


@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize("module", ["iqarena.bench.cli.app", "iqarena.bench.study", "tests"])
def test_programs_say_how_threads_wait_before_torch_is_loaded(module: str) -> None:
    code = (
        f"import os, sys, {module}; sys.argv = ['iqarena', '--help']\n"
        "assert 'torch' not in sys.modules\n"
        f"try: getattr(sys.modules[{module!r}], 'main', lambda: None)()\n"
        "except SystemExit: pass\n"
        "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split()[-2:] == ["1000", "False"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_stream_prints_what_its_encoding_has_and_question_marks_for_the_rest(encoding: str) -> None:
    code = "from iqarena.bench.process import print_what_fits; print_what_fits(); print('a ε ℓ \\udcff b')"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    assert done.stdout.decode(encoding).strip() == ("a ε ℓ ? b" if encoding == "utf-8" else "a ? ? ? b")


def test_an_interrupt_is_the_users_unless_signals_raise_something_else() -> None:
    assert [asks_to_stop(error) for error in (KeyboardInterrupt(), SystemExit(1), GeneratorExit())] == [True, False, False]
    with stoppable():
        assert [asks_to_stop(error) for error in (KeyboardInterrupt(), Stopped(2))] == [False, True]
    assert asks_to_stop(KeyboardInterrupt())


def test_an_exception_that_cannot_say_what_it_is_is_described() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert describe(Mute()) == "Mute: its message cannot be made"
