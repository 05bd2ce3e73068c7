"""A misbehaving plugin, named as ``file:…/misbehaving.py:Attacker`` by tests and by `faults.py`."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, replace
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

    def base_exception(self, target: Any, images: torch.Tensor) -> None:
        """Raise what only `except BaseException` catches."""
        raise Unheard("of")

    def interrupt(self, target: Any, images: torch.Tensor) -> None:
        """Raise what Ctrl-C raises."""
        raise KeyboardInterrupt

    def no_folder(self, target: Any, images: torch.Tensor) -> None:
        """Remove the working folder."""
        shutil.rmtree(Path.cwd())

    def no_json(self, target: Any, images: torch.Tensor) -> None:
        """Delete a function of the standard library."""
        vars(json).pop("dumps")

    def no_relu(self, target: Any, images: torch.Tensor) -> None:
        """Delete a function of torch."""
        vars(torch.nn.functional).pop("relu")

    def no_judge(self, target: Any, images: torch.Tensor) -> None:
        """Replace the check of the threat model."""
        vars(sys.modules["iqarena.bench.evaluation.crafting"])["inside_threat"] = lambda pixels, *_: (
            torch.ones(len(pixels)) > 0
        )

    def leave(self, target: Any, images: torch.Tensor) -> None:
        """End the process without a word."""
        os._exit(7)

    def past_score(self, target: Any, images: torch.Tensor) -> None:
        """Ask the model past the target."""
        target.model(images)

    def past_gradient(self, target: Any, images: torch.Tensor) -> None:
        """Take a gradient past the target."""
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(target.model.quality(leaf).sum(), leaf)

    def past_layer(self, target: Any, images: torch.Tensor) -> None:
        """Ask for the features of the model, past the target."""
        target.model.features(images)

    def hook(self, target: Any, images: torch.Tensor) -> None:
        """Leave a hook on the model that changes its scores."""
        target.model.register_forward_hook(lambda module, args, scores: scores * 0)

    def rename(self, target: Any, images: torch.Tensor) -> None:
        """Turn the scale of the model round."""
        target.model.info = replace(target.model.info, higher_is_better=False)

    def train(self, target: Any, images: torch.Tensor) -> None:
        """Leave the model in training mode."""
        target.model.train()


class Unheard(BaseException):
    """An exception that is no `Exception`."""
