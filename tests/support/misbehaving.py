"""Plugins that do what plugins should not, named as ``file:…/misbehaving.py:Attacker`` by tests and by `faults.py`."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from iqarena.attacks.base import Access, Attack, Generators
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat

_LEAKED: list[bytes] = []


@dataclass(frozen=True)
class Attacker(Attack):
    """Brightens by a level, and does what its parameter says first.

    Attributes:
        deed: one of the methods below.
        flag: a file that "once" leaves behind.
    """

    name: ClassVar[str] = "attacker"
    access: ClassVar[Access] = "score"

    deed: str = "nothing"
    flag: str = ""

    def run(
        self, target: Any, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        getattr(self, self.deed)(target, images)
        return threat.snap(threat.project(images + 1 / 255, images), images)

    def nothing(self, target: Any, images: torch.Tensor) -> None:
        """No harm."""

    def kill(self, target: Any, images: torch.Tensor) -> None:
        """What the kernel does where memory is short."""
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self, target: Any, images: torch.Tensor) -> None:
        """For ever."""
        time.sleep(10**6)

    def stubborn(self, target: Any, images: torch.Tensor) -> None:
        """For ever, whatever is raised."""
        while True:
            try:
                time.sleep(10**6)
            except:  # noqa: E722 - that is the point
                continue

    def once(self, target: Any, images: torch.Tensor) -> None:
        """Hangs the first time, having said on which machine of a Ray cluster."""
        import ray

        if not Path(self.flag).exists():
            Path(self.flag).write_text(ray.get_runtime_context().get_node_id())
            time.sleep(10**6)

    def greedy(self, target: Any, images: torch.Tensor) -> None:
        """Dies of more than two images at once, as of a batch that the kernel has no room for."""
        if len(images) > 2:
            os._exit(137)

    def hungry(self, target: Any, images: torch.Tensor) -> None:
        """Raises for more than two images at once, as where an allocation fails."""
        if len(images) > 2:
            raise RuntimeError("CUDA error: out of memory")

    def hoard(self, target: Any, images: torch.Tensor) -> None:
        """Asks for 8 GiB at once."""
        bytearray(2**33)

    def leak(self, target: Any, images: torch.Tensor) -> None:
        """Holds on to 200 MiB each time."""
        _LEAKED.append(b"\1" * (200 * 2**20))

    def fork(self, target: Any, images: torch.Tensor) -> None:
        """Comes back twice."""
        os.fork()

    def quit(self, target: Any, images: torch.Tensor) -> None:
        """Takes the process for its own."""
        sys.exit("bye")

    def stir(self, target: Any, images: torch.Tensor) -> None:
        """Changes what is the whole process's."""
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float64)
        os.chdir("/")

    def retrain(self, target: Any, images: torch.Tensor) -> None:
        """Changes a weight of the attacked model, and says nothing."""
        next(target.model.parameters()).data.flatten()[0] += 1
