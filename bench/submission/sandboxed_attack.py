"""Run the attack of a submission in a process with limits, see `iqarena.bench.submission.sandbox`.

The process is ``python -m iqarena.bench.submission.sandboxed_attack LIMITS… TASK.json``. It writes attacked images as PNG
files, which the process that started it checks and scores; nothing else from it is trusted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from iqarena.bench.submission.sandbox import apply_limits


def main(args: list[str]) -> None:
    """Generate the attacked images of the cells of a task.

    Args:
        args: the limits, then the task's file: JSON with the `file` and the class name `made` of the attack, its registry
            `name`, the `root` of the data set, and `groups` with a `limit` and `cells`; each cell has a `folder` for its
            images, and its fields as `cell`.
    """
    (task_file,) = apply_limits(args)
    task = json.loads(Path(task_file).read_text(encoding="utf-8"))

    from iqarena.attacks.base import Attack
    from iqarena.bench.cells import Cell
    from iqarena.bench.datasets import open_dataset
    from iqarena.bench.errors import CannotRun
    from iqarena.bench.evaluation.evaluator import Evaluator
    from iqarena.bench.registry import ATTACKS, class_in_file
    from iqarena.bench.submission.bundle import encode_png

    cls = class_in_file(f"file:{task['file']}:{task['made']}")
    if cls is None or not issubclass(cls, Attack):
        raise CannotRun(f"{task['made']} is no attack")
    ATTACKS.add(task["name"], cls)
    root = Path(task["root"]) if task["root"] else None
    for group in task["groups"]:
        evaluator = None
        for entry in group["cells"]:
            cell = Cell(**entry["cell"])
            evaluator = evaluator or Evaluator(open_dataset(cell.dataset, root), group["limit"], 16)
            evaluator.ids.check(cell)
            crafted = evaluator.attacked.crafted(cell)
            if crafted.errors:
                raise CannotRun(crafted.errors[0])
            folder = Path(entry["folder"])
            folder.mkdir(parents=True)
            for index, image in enumerate(crafted.pixels):
                (folder / f"{index:05d}.png").write_bytes(encode_png(image))


if __name__ == "__main__":
    from iqarena.bench.errors import CannotRun, UserError

    try:
        main(sys.argv[1:])
    except (CannotRun, UserError) as error:
        sys.exit(str(error))
