"""Run untrusted code in a separate process with resource limits.

The process gets its own folder as working folder and home, a new environment (without the secrets of this one), and limits
on time, memory, files and disk; where the system allows it, no network. These are limits, not a jail: the code runs as this
user, can read what this user can read, and can leave behind a process that has started its own session. Code that is not
trusted at all belongs into a container or on a separate machine.
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
"""Flags of unshare on Linux; a new network namespace has no network."""
_POLL_SECONDS = 0.2
"""Interval at which time and disk usage are checked."""


@dataclass(frozen=True)
class Limits:
    """Resource limits of the process.

    Attributes:
        seconds: wall time, and CPU time per core.
        memory_mib: size of its data segment.
        file_mib: size of one file.
        disk_mib: size of all files in its folder.
        files: number of open files.
    """

    seconds: int = 3600
    memory_mib: int = 8192
    file_mib: int = 256
    disk_mib: int = 4096
    files: int = 256

    def apply(self) -> None:
        """Apply the limits to this process and its future children; they cannot be raised again."""
        cores = os.cpu_count() or 1
        for kind, limit in (
            (resource.RLIMIT_CPU, self.seconds * cores),
            (resource.RLIMIT_DATA, self.memory_mib << 20),
            (resource.RLIMIT_FSIZE, self.file_mib << 20),
            (resource.RLIMIT_NOFILE, self.files),
            (resource.RLIMIT_CORE, 0),
        ):
            hard = resource.getrlimit(kind)[1]
            allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(kind, (allowed, allowed))

    def args(self) -> list[str]:
        """Return the limits as command line arguments."""
        return [str(value) for value in asdict(self).values()]


def environment(folder: Path, threads: int) -> dict[str, str]:
    """Return the environment variables of the process."""
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


def run(module: str, args: list[str], folder: Path, limits: Limits, threads: int) -> None:
    """Run a module of this project in a process with limits, which it must apply first (`apply_limits`).

    Args:
        module: name of the module, such as "iqarena.bench.submission.sandboxed_attack".
        args: its arguments.
        folder: its temporary working folder and home, where it also writes its results.
        limits: limits of the process.
        threads: number of threads of torch.

    Raises:
        UserError: where it failed or exceeded a limit, with a message of one line.
    """
    (folder / "tmp").mkdir(exist_ok=True)
    # an anonymous file: the code could replace or remove a file in its folder
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *limits.args(), *args],
            cwd=folder,
            env=environment(folder, threads),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            reason = _watch(child, folder, limits)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # with the processes that it has started in its group
            child.wait()
        if reason:
            raise UserError(f"its code was stopped: {reason}")
        if child.returncode:
            raise UserError(f"its code failed: {_failure(child.returncode, log)}")


def _watch(child: subprocess.Popen[bytes], folder: Path, limits: Limits) -> str:
    """Wait for a process; return why it has to be stopped, or an empty string when it has ended by itself."""
    end = time.monotonic() + limits.seconds
    while child.poll() is None:
        if time.monotonic() > end:
            return f"it took more than {limits.seconds} s"
        if _bytes(folder) > limits.disk_mib << 20:
            return f"it wrote more than {limits.disk_mib} MiB"
        with suppress(subprocess.TimeoutExpired):
            child.wait(_POLL_SECONDS)
    return ""


def _bytes(folder: Path) -> int:
    """Return the size of all files in a folder; links are not followed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 - thousands of them, five times a second
    return total


def _failure(code: int, log: IO[bytes]) -> str:
    """Return the last line that a process has printed, without control characters; or the signal that ended it."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGSEGV, -signal.SIGXFSZ, -signal.SIGABRT):
        return f"it was ended by {signal.Signals(-code).name}, as for taking too much"
    log.seek(max(log.seek(0, os.SEEK_END) - 4096, 0))
    lines = log.read().decode("utf-8", "replace").split("\n")
    return printable(next((line for line in reversed(lines) if line.strip()), f"exit code {code}"))


def apply_limits(args: list[str]) -> list[str]:
    """Apply the limits that a command line begins with to this process, disable its network if possible; return the rest."""
    count = len(asdict(Limits()))
    Limits(*map(int, args[:count])).apply()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NETWORK)  # on Linux; fails silently where it is not allowed
    return args[count:]
