"""The child process of the sandbox in tests: ``python -m tests.support.sandboxed LIMITS… DEED``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from iqarena.bench.submission.sandbox import apply_limits


def main() -> None:  # noqa: PLR0912 - one branch for each deed
    deed, *more = apply_limits(sys.argv[1:])
    folder = Path.cwd()
    if deed == "look":
        facts = {"environment": dict(os.environ), "folder": str(folder), "home": str(Path.home())}
        (folder / "facts.json").write_text(json.dumps(facts))
    elif deed == "sleep":
        time.sleep(3600)
    elif deed == "take":
        bytearray(1 << 30)
    elif deed == "write":
        with (folder / "large").open("wb") as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
    elif deed == "fill":
        for number in range(3600 * 5):
            (folder / str(number)).write_bytes(bytes(1 << 20))
            time.sleep(0.01)
    elif deed == "open":
        _ = [(folder / "facts").open("w") for _ in range(500)]
    elif deed == "leave":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        Path(more[0]).write_text(str(child.pid))
    elif deed == "call":
        try:
            socket.create_connection(("127.0.0.1", int(more[0])), timeout=60).close()
            (folder / "reached").touch()
        except OSError:
            pass
    elif deed in ("swap", "link"):
        for file in folder.iterdir():  # including the files for its output, if they were in its folder
            if file.is_file():
                file.unlink()
                os.mkfifo(file) if deed == "swap" else file.symlink_to("/etc/hostname")
        sys.exit("swapped")
    elif deed == "shout":
        print("\x1b[2J\x1b[31mall is well")
        sys.exit(1)


if __name__ == "__main__":
    main()
