"""A process that runs attacks for another one; see `iqarena.bench.executors.isolated`.

Messages are JSON in bytes, and images are their bytes: nothing is pickled, since reading a pickle may run code.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from iqarena.attacks.base import Attack
from iqarena.attacks.ensemble import Ensemble
from iqarena.attacks.threat import Threat
from iqarena.bench.cells import Cell, canonical
from iqarena.bench.code_hash import source_hash
from iqarena.bench.errors import CannotRun, UserError, describe, printable
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors.processes import exit_reason, new_context
from iqarena.bench.executors.schedule import WorkerSettings
from iqarena.bench.executors.worker import begin_child
from iqarena.bench.inference.isolation import OutOfMemory, go_to, out_of_memory, undisturbed, working_folder
from iqarena.bench.inference.process_state import settled
from iqarena.bench.registry import ATTACKS

_DECLARED = ("name", "access", "norms", "objectives", "control", "limited", "batches", "min_size", "paper")
"""Class attributes of an attack that the judging process needs."""


class CraftingError(Exception):
    """A crafting process that ended, took too long or sent something else than it was asked for."""


class CraftingProcess:
    """The other end of a crafting process, which starts with the first question and again after it was lost."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._process: Any = None
        self._pipe: Connection | None = None
        self._folder = working_folder()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Ask and return the answer.

        Raises:
            UserError: for an error that the user can fix.
            CannotRun: for a cell that cannot be run.
            OutOfMemory: where a smaller batch may help.
            CraftingError: for any other error of the attack or of its process.
        """
        self._send(question)
        answer = self._answer()
        kind, message = str(answer.pop("error", "")), printable(str(answer.pop("message", "")))
        if kind:
            raise {"UserError": UserError, "CannotRun": CannotRun, "OutOfMemory": OutOfMemory}.get(kind, CraftingError)(
                message
            )
        return answer

    def craft(
        self, cell: Cell, halvings: int, shapes: Sequence[tuple[int, ...]]
    ) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """Return what is told of a cell's attacked images, and the images of these shapes, uint8."""
        told = self.ask(do="craft", cell=asdict(cell), halvings=halvings)
        images = []
        for shape in shapes:
            content = self._receive()
            if len(content) != int(np.prod(shape)):
                self.end()
                raise CraftingError("the crafting process sent an image of another size")
            images.append(torch.from_numpy(np.frombuffer(content, dtype=np.uint8).reshape(shape).copy()))
        return told, images

    def end(self) -> None:
        """End the process and everything that it started."""
        if self._process is not None and self._pipe is not None:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None
        self._keep_folder()

    def _keep_folder(self) -> None:
        """Make the working folder again, if a plugin in another process has removed it."""
        if self._folder is not None and working_folder() is None:
            go_to(self._folder)

    def _send(self, question: dict[str, Any]) -> None:
        if self._pipe is None:
            self._keep_folder()
            context = new_context()
            self._pipe, child_end = context.Pipe()
            self._process = context.Process(target=serve, args=(child_end, self._settings))
            self._process.start()
            child_end.close()
        with suppress(OSError):  # a lost process is noticed when its answer is awaited
            self._pipe.send_bytes(json.dumps(question).encode())

    def _answer(self) -> dict[str, Any]:
        content = self._receive()
        try:
            answer = json.loads(content)
            if isinstance(answer, dict):
                return answer
        except (ValueError, RecursionError):
            pass
        self.end()
        raise CraftingError("the crafting process did not answer as it should")

    def _receive(self) -> bytes:
        assert self._pipe is not None
        limit = self._settings.seconds
        try:
            if self._pipe.poll(limit):
                return self._pipe.recv_bytes(2**30)
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode
            self.end()
            perhaps = ", out of memory perhaps" if code in (None, -signal.SIGKILL) else ""
            raise CraftingError(f"its process died{exit_reason(code)}{perhaps}") from None
        self.end()
        raise CraftingError(f"it took longer than the time limit of {limit:g} s")


# --- runs in the crafting process


def serve(pipe: Connection, settings: WorkerSettings) -> None:
    """Answer questions until the pipe closes; the entry point of the process."""
    begin_child(settings)
    crafter = _Server(settings)
    with suppress(EOFError, OSError), settled():
        while True:
            answer, images = crafter.answer(json.loads(pipe.recv_bytes()))
            pipe.send_bytes(json.dumps(answer).encode())
            for image in images:
                pipe.send_bytes(image)


class _Server:
    """Answers the questions of the judging process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._evaluator: Evaluator | None = None

    def answer(self, question: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
        """Answer a question; an error becomes an answer."""
        do = question.pop("do")
        try:
            if do == "describe":
                return _description(**question), []
            if do == "refusal":
                attack = ATTACKS.build(question.pop("attack"))
                threat = Threat(**question.pop("threat"))
                return {"reason": attack.refusal(threat, **question)}, []
            return self._craft(**question)
        except BaseException as error:
            kind = "OutOfMemory" if out_of_memory(error) else type(error).__name__
            plain = isinstance(error, UserError | CannotRun | OutOfMemory)
            return {"error": kind, "message": str(error) if plain else describe(error)}, []

    def _craft(self, cell: dict[str, Any], halvings: int) -> tuple[dict[str, Any], list[bytes]]:
        self._evaluator = evaluator = self._evaluator or self._settings.evaluator()
        chosen = Cell(**cell)
        evaluator.scorer.halvings = halvings
        with undisturbed() as disturbed:
            crafted = evaluator.attacked.crafted(chosen)
        crafted.errors += disturbed
        evaluator.attacked.clear()  # the judging process keeps them
        if changed := evaluator.pool.changed({chosen.model, chosen.crafted_on[0]}):
            crafted.errors.append(f"{' and '.join(changed)} were changed meanwhile; the models were loaded anew")
            crafted.table["status"] = "failed"
        table = {name: crafted.table[name].tolist() for name in ("status", "forwards", "backwards")}
        told = {
            **table,
            "seconds": crafted.seconds,
            "flags": crafted.flags,
            "errors": crafted.errors,
            "fits": crafted.fits,
            "curve": crafted.curve,
        }
        return told, [image.contiguous().numpy().tobytes() for image in crafted.pixels]


def _description(attack: str) -> dict[str, Any]:
    """Describe an attack for `iqarena.bench.executors.isolated`."""
    built: Attack = ATTACKS.build(attack)
    if isinstance(built, Ensemble):
        raise UserError(f"--isolate knows the ensembles of this project only; list the members of {attack} instead")
    return {
        **{name: getattr(built, name) for name in _DECLARED},
        "parameters": asdict(built) if is_dataclass(built) else {},
        "passes": built.passes,
        "spelled": canonical("attack", attack),
        "source_hash": source_hash(built),
    }
