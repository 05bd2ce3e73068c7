"""The ids of cells: hashes of all that their numbers depend on, and the reasons for which a cell cannot run."""

from __future__ import annotations

from collections.abc import Sequence

from iqarena.attacks.base import GRADIENT_ACCESS
from iqarena.attacks.ensemble import Ensemble
from iqarena.bench.cells import PROTOCOL, Cell, digest
from iqarena.bench.code_hash import source_hash
from iqarena.bench.datasets.image_store import CleanImages
from iqarena.bench.errors import CannotRun, describe
from iqarena.bench.inference.model_pool import ModelPool
from iqarena.bench.process import asks_to_stop
from iqarena.bench.registry import ATTACKS, DEFENSES


def attacked_model(cell: Cell) -> tuple[str, str, bool]:
    """Return (model, defense, surrogate) of the model that a cell's attack queries: the surrogate if it uses gradients."""
    return (*cell.crafted_on, ATTACKS.build(cell.attack).access in GRADIENT_ACCESS)


class CellIds:
    """Computes the ids of the cells of one image set.

    Args:
        pool: the models of the run.
        images: the clean images.
        image_ids: their ids, in the same order.
        fingerprint: fingerprint of the data set.
    """

    def __init__(self, pool: ModelPool, images: CleanImages, image_ids: Sequence[str], fingerprint: str) -> None:
        self._pool, self._fingerprint = pool, fingerprint
        self._images = list(zip(image_ids, images.hashes, strict=True))
        self._sizes = dict(reversed(list(zip(images.sizes, image_ids, strict=True))))  # the first image of each size
        self._ingredients: dict[tuple[str, str, str], list[object]] = {}

    def cell_id(self, cell: Cell) -> str:
        """Return the hash of everything that a cell's numbers depend on.

        Raises:
            CannotRun: if the cell cannot be run.
        """
        self.check(cell)
        ingredients = [self.ingredients(cell, cell.model, cell.defense)]
        if cell.source:
            ingredients.append(self.ingredients(cell, *cell.crafted_on))
        return digest(cell.parts, ingredients, self._images, self._fingerprint)[:16]

    def crafting_id(self, cell: Cell) -> str:
        """Return the hash of everything that a cell's attacked images depend on."""
        ingredients = self.ingredients(cell, *cell.crafted_on)
        return digest(cell.crafting, ingredients, self._images, self._fingerprint)[:16]

    def ingredients(self, cell: Cell, name: str, defense: str) -> list[object]:
        """Return the hashes of code and weights of a cell's attack, of a model and of a defense."""
        key = (cell.attack, name, defense)
        if key not in self._ingredients:
            attack, bare = ATTACKS.build(cell.attack), self._pool.info(name, "none")
            members = [member for member, _ in attack.members] if isinstance(attack, Ensemble) else []
            code = [source_hash(plugin) for plugin in (attack, *members, DEFENSES.build(defense), self._pool.bare(name))]
            weights = [bare.weights_sha256, self._pool.info(name, defense).weights_sha256]
            self._ingredients[key] = [PROTOCOL, code, weights, bare.score_range, bare.higher_is_better]
        return self._ingredients[key]

    def check(self, cell: Cell) -> None:
        """Check that a cell can be run.

        Raises:
            CannotRun: with the reason if it cannot.
        """
        attack, model = ATTACKS.build(cell.attack), self._pool.info(cell.model, "none")
        attacked, deployed = self._pool.info(*attacked_model(cell)), self._pool.info(cell.model, cell.defense)
        if cell.norm not in attack.norms:
            raise CannotRun(f"{cell.attack} does not support {cell.norm}; it supports {', '.join(attack.norms)}")
        if cell.objective not in attack.objectives:
            raise CannotRun(f"{cell.attack} cannot {cell.objective}; it can {', '.join(attack.objectives)}")
        if cell.queries is not None and not attack.limited:
            raise CannotRun(f"{cell.attack} cannot keep to a query limit")
        if cell.queries and attacked.stochastic and cell.queries < cell.draws:
            raise CannotRun(f"a query limit of {cell.queries} is below the {cell.draws} draws of an answer")
        if attack.access in GRADIENT_ACCESS and not attacked.differentiable:
            raise CannotRun(f"{cell.attack} needs a gradient, and {attacked.name} has none")
        behind = f"{cell.model} behind {cell.defense}" if deployed.min_size > model.min_size else cell.model
        needs = [(behind, max(model.min_size, deployed.min_size)), (cell.crafted_on[0], attacked.min_size)]
        for (height, width), image_id in self._sizes.items():
            for name, least in needs:
                if min(height, width) < least:
                    raise CannotRun(f"{image_id} is {width}×{height}; {name} needs {least}×{least}")
            try:
                reason = attack.refusal(cell.threat, height, width)
            except BaseException as error:
                if asks_to_stop(error):
                    raise
                reason = f"{cell.attack} cannot say whether it takes these images ({describe(error)})"
            if reason:
                raise CannotRun(reason)
