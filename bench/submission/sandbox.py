"""Runs somebody else's code in a process that may not take more than it is given.

It gets a folder of its own as working folder and home, an environment that is built anew (no secrets of this one), and
limits on time, memory, files and disk; where the system allows it, no network. These are limits, not a jail: the code runs
as this user, can read what this user can read, and can leave a process behind that has made itself a session of its own.
Code that is not trusted at all belongs into a container or a machine of its own.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from iqarena.bench.checkout import IMPORT_ROOT
from iqarena.bench.errors import UserError, printable

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
"""Linux: namespaces of its own; in a new one of the network there is none."""
_LOOK = 0.2
"""Seconds between looks at the clock and at the disk."""


@dataclass(frozen=True)
class Limits:
    """What the process may take.

    Attributes:
        seconds: wall time, and on each core processor time.
        memory_mib: of data.
        file_mib: of one file.
        disk_mib: of all files in its folder.
        files: open at once.
    """

    seconds: int = 3600
    memory_mib: int = 8192
    file_mib: int = 256
    disk_mib: int = 4096
    files: int = 256

    def apply(self) -> None:
        """To this process and all that it will start; there is no way back."""
        cores = os.cpu_count() or 1
        for kind, most in (
            (resource.RLIMIT_CPU, self.seconds * cores),
            (resource.RLIMIT_DATA, self.memory_mib << 20),
            (resource.RLIMIT_FSIZE, self.file_mib << 20),
            (resource.RLIMIT_NOFILE, self.files),
            (resource.RLIMIT_CORE, 0),
        ):
            hard = resource.getrlimit(kind)[1]
            allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (allowed, allowed))

    def words(self) -> list[str]:
        """As arguments of a command line."""
        return [str(value) for value in asdict(self).values()]


def environment(folder: Path, threads: int) -> dict[str, str]:
    """All that the process gets to know of its surroundings."""
    return {
        "PATH": os.defpath,
        "HOME": str(folder),
        "TMPDIR": str(folder / "tmp"),
        "IQARENA_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(IMPORT_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": str(threads),
        "LANG": "C.UTF-8",
    }


def run(module: str, words: list[str], folder: Path, limits: Limits, threads: int) -> None:
    """Run a module of this project in a process with limits, which it must apply first thing (`applied`).

    Args:
        module: such as "iqarena.bench.submission.sandboxed_attack".
        words: its arguments.
        folder: its working folder and home, to be thrown away; also where it leaves what it makes.
        limits: of the process.
        threads: of torch.

    Raises:
        UserError: where it did not end well, or took more than it may, in one line.
    """
    (folder / "tmp").mkdir(exist_ok=True)
    # a file without a name: in its folder the code could put something else, or nothing, in the file's place
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *limits.words(), *words],
            cwd=folder,
            env=environment(folder, threads),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            reason = _watched(child, folder, limits)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # and what it has started in its own group
            child.wait()
        if reason:
            raise UserError(f"its code was stopped: {reason}")
        if child.returncode:
            raise UserError(f"its code failed: {_words(child.returncode, log)}")


def _watched(child: subprocess.Popen[bytes], folder: Path, limits: Limits) -> str:
    """Why a process has to be stopped; empty when it has ended by itself."""
    end = time.monotonic() + limits.seconds
    while child.poll() is None:
        if time.monotonic() > end:
            return f"it took more than {limits.seconds} s"
        if _bytes(folder) > limits.disk_mib << 20:
            return f"it wrote more than {limits.disk_mib} MiB"
        with suppress(subprocess.TimeoutExpired):
            child.wait(_LOOK)
    return ""


def _bytes(folder: Path) -> int:
    """Of the files in a folder, links not followed."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_size  # noqa: PTH118 - thousands of them, five times a second
    return total


def _words(code: int, log: IO[bytes]) -> str:
    """The last line that a process has printed, with nothing in it that a terminal would obey."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGSEGV, -signal.SIGXFSZ, -signal.SIGABRT):
        return f"it was ended by {signal.Signals(-code).name}, as for taking too much"
    log.seek(max(log.seek(0, os.SEEK_END) - 4096, 0))
    lines = log.read().decode("utf-8", "replace").split("\n")
    return printable(next((line for line in reversed(lines) if line.strip()), f"exit code {code}"))


def applied(words: list[str]) -> list[str]:
    """Apply the limits at the front of a command line to this process, cut its network off if that can be; the rest."""
    count = len(asdict(Limits()))
    Limits(*map(int, words[:count])).apply()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NETWORK)  # on Linux; where it is not allowed, nothing happens
    return words[count:]
