"""A misbehaving plugin, named as ``file:…/misbehaving.py:Attacker`` by tests and by `faults.py`."""

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
    """An attack that misbehaves as its parameter says, then brightens by a level.

    Attributes:
        deed: one of the methods below.
        flag: path of the file that "once" writes.
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
        """Do nothing."""

    def kill(self, target: Any, images: torch.Tensor) -> None:
        """Kill the process, as the kernel does when memory runs out."""
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self, target: Any, images: torch.Tensor) -> None:
        """Hang for ever."""
        time.sleep(10**6)

    def stubborn(self, target: Any, images: torch.Tensor) -> None:
        """Hang for ever, ignoring every exception."""
        while True:
            try:
                time.sleep(10**6)
            except:  # noqa: E722 - that is the point
                continue

    def once(self, target: Any, images: torch.Tensor) -> None:
        """Write the id of the Ray node and hang, the first time only."""
        import ray

        if not Path(self.flag).exists():
            Path(self.flag).write_text(ray.get_runtime_context().get_node_id())
            time.sleep(10**6)

    def greedy(self, target: Any, images: torch.Tensor) -> None:
        """Exit at once for more than two images, as when the kernel kills a process for its batch size."""
        if len(images) > 2:
            os._exit(137)

    def hungry(self, target: Any, images: torch.Tensor) -> None:
        """Raise an error for more than two images, as when an allocation fails."""
        if len(images) > 2:
            raise RuntimeError("CUDA error: out of memory")

    def hoard(self, target: Any, images: torch.Tensor) -> None:
        """Allocate 8 GiB at once."""
        bytearray(2**33)

    def leak(self, target: Any, images: torch.Tensor) -> None:
        """Leak 200 MiB each time."""
        _LEAKED.append(b"\1" * (200 * 2**20))

    def fork(self, target: Any, images: torch.Tensor) -> None:
        """Fork the process, so that the method returns twice."""
        os.fork()

    def quit(self, target: Any, images: torch.Tensor) -> None:
        """Exit the process."""
        sys.exit("bye")

    def stir(self, target: Any, images: torch.Tensor) -> None:
        """Change the global state of the process."""
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float64)
        os.chdir("/")

    def retrain(self, target: Any, images: torch.Tensor) -> None:
        """Change a weight of the attacked model silently."""
        next(target.model.parameters()).data.flatten()[0] += 1
