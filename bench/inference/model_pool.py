"""The models of a run, undefended and defended: loaded on demand, moved to the device on first use, checked for changes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import torch

from iqarena.bench.errors import CannotRun, UserError, describe
from iqarena.bench.inference.device import Engine
from iqarena.bench.inference.identity import Answers, ask
from iqarena.bench.inference.isolation import ModelState, model_state, own_copy, undisturbed
from iqarena.bench.inference.loading import load_model
from iqarena.bench.inference.runtime_flags import depends_on_batch
from iqarena.bench.process import asks_to_stop
from iqarena.bench.registry import DEFENSES
from iqarena.bench.suite import Batch
from iqarena.defenses.base import Defense, DoesNotApply
from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.zoo import WeightsError

HELD_BYTES = 2**30
"""Bytes of weights that stay loaded; the two most recently used models stay in any case."""


class _Loaded:
    """A model and its defended versions by (defense, surrogate); with the defense "none" it is the model itself."""

    def __init__(self, model: QualityModel) -> None:
        self.model = model
        self.defended: dict[tuple[str, bool], QualityModel] = {}
        self.states: dict[QualityModel, ModelState] = {}
        self.batches: dict[QualityModel, int] = {}
        self.dependent: dict[QualityModel, bool] = {}

    @property
    def bytes(self) -> int:
        """Bytes of all weights, each counted once."""
        tensors = [t for model in (self.model, *self.defended.values()) for t in model.state_dict().values()]
        return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


class ModelPool:
    """Models by name.

    Args:
        extra: models that are not in the registry; they are copied before use.
        engine: device and settings of forward and backward passes.
        batch: batch size, or "auto".
        image: one of the images to be scored, (3, H, W) uint8.
        memory: memory limit of this process in bytes, if there is one.
    """

    def __init__(
        self, extra: dict[str, QualityModel], engine: Engine, batch: Batch, image: torch.Tensor, memory: int | None
    ) -> None:
        self.extra, self.engine = extra, engine
        self._batch, self._image, self._memory = batch, image, memory
        self._models: OrderedDict[str, _Loaded] = OrderedDict()
        self._infos: dict[tuple[str, str, bool], ModelInfo | CannotRun] = {}
        self._answers: dict[str, Answers] = {}

    def answers(self, name: str) -> Answers | None:
        """Return the answers of an undefended model on the probes, asked once; see `iqarena.bench.inference.identity`.

        None of a model that the registry vouches for: its code and weights are part of every id.
        """
        if name not in self.extra and not name.startswith("file:"):
            return None
        if name not in self._answers:
            with undisturbed():
                self._answers[name] = ask(self.ready(name, "none"), self.engine.device)
        return self._answers[name]

    def bare(self, name: str) -> QualityModel:
        """Return the undefended model.

        Raises:
            UserError: if there is no such model, or it cannot be built.
        """
        return self._load(name).model

    def defended(self, name: str, defense: str, surrogate: bool = False) -> QualityModel:
        """Return the deployed model, or the surrogate that an adaptive attacker differentiates.

        Raises:
            CannotRun: if the defense cannot be applied to the model.
            UserError: if it cannot be built.
        """
        loaded = self._load(name)
        if (defense, surrogate) not in loaded.defended:
            loaded.defended[defense, surrogate] = self._defend(name, defense, surrogate)
        return loaded.defended[defense, surrogate]

    def info(self, name: str, defense: str, surrogate: bool = False) -> ModelInfo:
        """Return the info of a defended model; it is kept when the model itself is dropped from memory.

        Raises:
            CannotRun: if the defense cannot be applied to the model.
            UserError: if it cannot be built.
        """
        key = (name, defense, surrogate)
        if key not in self._infos:
            try:
                self._infos[key] = self.defended(*key).info
            except CannotRun as reason:
                self._infos[key] = reason
        info = self._infos[key]
        if isinstance(info, CannotRun):
            raise info
        return info

    def _load(self, name: str) -> _Loaded:
        if name not in self._models:
            extra = self.extra.get(name)
            with undisturbed():  # a new model draws random weights before it gets its own
                self._models[name] = _Loaded(load_model(name) if extra is None else own_copy(extra))
            while len(self._models) > 2 and sum(loaded.bytes for loaded in self._models.values()) > HELD_BYTES:
                self._models.popitem(last=False)
        self._models.move_to_end(name)
        return self._models[name]

    def _defend(self, name: str, spec: str, surrogate: bool) -> QualityModel:
        defense: Defense = DEFENSES.build(spec)
        base = self.bare(name)
        try:
            with undisturbed():
                defended = (defense.surrogate if surrogate else defense.protect)(base)
        except DoesNotApply as error:
            raise CannotRun(str(error)) from None
        except WeightsError as error:
            raise UserError(str(error)) from None
        except BaseException as error:
            if asks_to_stop(error):
                raise
            raise UserError(f"defense {spec!r} on {name!r}: {describe(error)}") from None
        if defense.stochastic and defended is not base:
            defended.info = replace(defended.info, stochastic=True)
        return defended

    def ready(self, name: str, defense: str, surrogate: bool = False) -> QualityModel:
        """Return the model of `defended`, on the device; its state is kept for `changed`."""
        model, loaded = self.defended(name, defense, surrogate), self._load(name)
        if model not in loaded.states:
            self.engine.place(model, self._image)
            loaded.states[model] = model_state(model)
        return model

    def batch(self, name: str, defense: str, surrogate: bool = False, halvings: int = 0) -> int:
        """Return the batch size of a model: one if the score of an image depends on the others in its batch."""
        if self.depends_on_batch(name, defense, surrogate):
            return 1
        model, loaded = self.ready(name, defense, surrogate), self._load(name)
        if model not in loaded.batches:
            loaded.batches[model] = self.engine.batch(self._batch, model, self._image, self._memory)
        return max(loaded.batches[model] >> halvings, 1)

    def depends_on_batch(self, name: str, defense: str, surrogate: bool = False) -> bool:
        """Check whether the score of an image changes with the others in its batch, as by statistics of the batch."""
        model, loaded = self.ready(name, defense, surrogate), self._load(name)
        if model not in loaded.dependent:
            loaded.dependent[model] = not model.info.stochastic and depends_on_batch(
                model, self._image[None].to(self.engine.device).float() / 255
            )
        return loaded.dependent[model]

    def changed(self, names: set[str]) -> list[str]:
        """Return what has changed in models since they were loaded, as "the weights of NAME"; they are loaded anew."""
        changed = []
        for name in sorted(names & set(self._models)):
            found = {
                part for model, state in self._models[name].states.items() for part in state.changes(model_state(model))
            }
            if found:
                changed.append(f"the {' and '.join(sorted(found))} of {name}")
                del self._models[name]
        return changed
