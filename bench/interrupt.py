"""Ctrl-C and SIGTERM end a run soon, whatever it is doing."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 4.0
"""Seconds in which a run may end by itself, with its summary rebuilt; then the process ends as it is."""

GO_ON = "stopped; finished cells are kept, and the same command goes on from here"

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A run that was told to end; `code` is its exit status. No plugin takes it for an error of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """A signal raises `Stopped` inside; where that does not end it in time, the process ends with the same words.

    It may not: a library's long call gets no exception, and a bare ``except:`` of a plugin swallows it. So a thread listens
    too, which the kernel wakes at once. Records are whole or not there, so nothing is lost by so hard an end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told, tell = socket.socketpair()
    tell.setblocking(False)
    ended = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:  # once is enough
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    def watch() -> None:
        while heard := told.recv(1):
            if heard[0] in _SIGNALS and not ended.wait(GRACE):
                print(GO_ON, file=sys.stderr, flush=True)
                os._exit(128 + heard[0])

    before = {each: signal.signal(each, stop) for each in _SIGNALS}
    earlier = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(earlier)
        for each, handler in before.items():
            signal.signal(each, handler)
        tell.close()
        thread.join()
        told.close()
