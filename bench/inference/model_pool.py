"""The models of a run, bare and defended: loaded when they are asked for, placed when they are to run, watched meanwhile."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import replace

import torch

from iqarena.bench.errors import CannotRun, UserError, describe
from iqarena.bench.inference.device import Engine
from iqarena.bench.inference.isolation import undisturbed, weights_sum
from iqarena.bench.inference.loading import load_model
from iqarena.bench.registry import DEFENSES
from iqarena.bench.suite import Batch
from iqarena.defenses.base import Defense, DoesNotApply
from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.zoo import WeightsError

HELD_BYTES = 2**30
"""Weights that stay loaded; of the two models asked for last, whatever they weigh."""


class _Loaded:
    """A model and what defenses make of it, by (defense, surrogate); "none" is the model itself."""

    def __init__(self, model: QualityModel) -> None:
        self.model = model
        self.defended: dict[tuple[str, bool], QualityModel] = {}
        self.sums: dict[QualityModel, tuple[int, ...]] = {}
        self.batches: dict[QualityModel, int] = {}

    @property
    def bytes(self) -> int:
        """Of all weights, each once."""
        tensors = [t for made in (self.model, *self.defended.values()) for t in made.state_dict().values()]
        return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


class ModelPool:
    """Models by name.

    Args:
        extra: models that are not in the registry; worked on are copies.
        engine: where and how they run.
        batch: images at once, or "auto".
        image: one that they have to score, (3, H, W) uint8.
        memory: bytes that this process may hold, where there is a limit.
    """

    def __init__(
        self, extra: dict[str, QualityModel], engine: Engine, batch: Batch, image: torch.Tensor, memory: int | None
    ) -> None:
        self.extra, self.engine = extra, engine
        self._batch, self._image, self._memory = batch, image, memory
        self._players: OrderedDict[str, _Loaded] = OrderedDict()
        self._infos: dict[tuple[str, str, bool], ModelInfo | CannotRun] = {}

    def bare(self, name: str) -> QualityModel:
        """The undefended model.

        Raises:
            UserError: where there is none, or it cannot be made.
        """
        return self._player(name).model

    def defended(self, name: str, defense: str, surrogate: bool = False) -> QualityModel:
        """The deployed model, or what an adaptive attacker differentiates.

        Raises:
            CannotRun: where the defense does not fit the model.
            UserError: where it cannot be made.
        """
        player = self._player(name)
        if (defense, surrogate) not in player.defended:
            player.defended[defense, surrogate] = self._made(name, defense, surrogate)
        return player.defended[defense, surrogate]

    def info(self, name: str, defense: str, surrogate: bool = False) -> ModelInfo:
        """The facts of a defended model; they stay when the model itself has had to go.

        Raises:
            CannotRun: where the defense does not fit the model.
            UserError: where it cannot be made.
        """
        key = (name, defense, surrogate)
        if key not in self._infos:
            try:
                self._infos[key] = self.defended(*key).info
            except CannotRun as reason:
                self._infos[key] = reason
        found = self._infos[key]
        if isinstance(found, CannotRun):
            raise found
        return found

    def _player(self, name: str) -> _Loaded:
        if name not in self._players:
            extra = self.extra.get(name)
            with undisturbed():  # a new model draws random weights before it gets its own
                self._players[name] = _Loaded(load_model(name) if extra is None else copy.deepcopy(extra))
            while len(self._players) > 2 and sum(player.bytes for player in self._players.values()) > HELD_BYTES:
                self._players.popitem(last=False)
        self._players.move_to_end(name)
        return self._players[name]

    def _made(self, name: str, defense: str, surrogate: bool) -> QualityModel:
        made: Defense = DEFENSES.build(defense)
        base = self.bare(name)
        try:
            with undisturbed():
                defended = (made.surrogate if surrogate else made.protect)(base)
        except DoesNotApply as error:
            raise CannotRun(str(error)) from None
        except WeightsError as error:
            raise UserError(str(error)) from None
        except Exception as error:
            raise UserError(f"defense {defense!r} on {name!r}: {describe(error)}") from None
        if made.stochastic and defended is not base:
            defended.info = replace(defended.info, stochastic=True)
        return defended

    def ready(self, name: str, defense: str, surrogate: bool = False) -> QualityModel:
        """The same as `defended`, placed where it is to run; what its weights are like is remembered."""
        model, player = self.defended(name, defense, surrogate), self._player(name)
        if model not in player.sums:
            self.engine.place(model, self._image)
            player.sums[model] = weights_sum(model)
        return model

    def batch(self, name: str, defense: str, surrogate: bool = False, halvings: int = 0) -> int:
        """How many images go through a model at once."""
        model, player = self.ready(name, defense, surrogate), self._player(name)
        if model not in player.batches:
            player.batches[model] = self.engine.batch(self._batch, model, self._image, self._memory)
        return max(player.batches[model] >> halvings, 1)

    def changed(self, names: set[str]) -> list[str]:
        """Which models' weights are not what they were; all that was made of them is forgotten, and will be made anew."""
        found = []
        for name in sorted(names & set(self._players)):
            if any(weights_sum(model) != sums for model, sums in self._players[name].sums.items()):
                found.append(name)
                del self._players[name]
        return found
