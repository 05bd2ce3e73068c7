"""The process in which the attack of a submission runs: ``python -m iqarena.bench.submission.sandboxed_attack LIMITS… TASK.json``, see `iqarena.bench.submission.sandbox`.

It makes attacked images and writes them as PNG files; whoever started it judges them. Nothing else is believed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from iqarena.bench.submission.sandbox import applied


def main(words: list[str]) -> None:
    """Make the attacked images of some cells.

    Args:
        words: the limits, then the task's file: JSON with `file` and `made` of the class, the `name` that it goes by, the
            `root` of the data set, and `groups`, each of a `limit` and `cells`; each cell has a `folder`, and `cell`, its
            facts.
    """
    (task_file,) = applied(words)
    task = json.loads(Path(task_file).read_text(encoding="utf-8"))

    from iqarena.attacks.base import Attack
    from iqarena.bench.cells import Cell
    from iqarena.bench.datasets import open_dataset
    from iqarena.bench.errors import CannotRun
    from iqarena.bench.evaluation.evaluator import Evaluator
    from iqarena.bench.registry import ATTACKS, class_in_file
    from iqarena.bench.submission.bundle import encoded

    made = class_in_file(f"file:{task['file']}:{task['made']}")
    if made is None or not issubclass(made, Attack):
        raise CannotRun(f"{task['made']} is no attack")
    ATTACKS.add(task["name"], made)
    root = Path(task["root"]) if task["root"] else None
    for group in task["groups"]:
        evaluator = None
        for facts in group["cells"]:
            cell = Cell(**facts["cell"])
            evaluator = evaluator or Evaluator(open_dataset(cell.dataset, root), group["limit"], 16)
            evaluator.ids.check(cell)
            crafted = evaluator.attacked.crafted(cell)
            if crafted.errors:
                raise CannotRun(crafted.errors[0])
            folder = Path(facts["folder"])
            folder.mkdir(parents=True)
            for place, image in enumerate(crafted.pixels):
                (folder / f"{place:05d}.png").write_bytes(encoded(image))


if __name__ == "__main__":
    from iqarena.bench.errors import CannotRun, UserError

    try:
        main(sys.argv[1:])
    except (CannotRun, UserError) as error:
        sys.exit(str(error))
