"""F4 with trees in its stack: the log-odds of the four rates and of tree models, combined by one online stack.

Slower than F4 by what the trees cost, and better where the trees see what bins and crosses do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from models.outcomes.f4 import F4, log_odds
from models.outcomes.model import Model, Restore, Sight
from models.outcomes.stack import Stack, StackState


class F4TreesState(msgspec.Struct, frozen=True):
    """What an `F4Trees` is restored from."""

    base: bytes
    trees: dict[str, bytes]
    stack: StackState | None


class F4Trees:
    """An `F4` and further models, by name, below a stack of their own."""

    def __init__(self, base: F4, trees: Mapping[str, Model]) -> None:
        """Combine `base` with `trees`, all of them fresh."""
        self.base = base
        self.trees = dict(trees)
        self._stack: Stack | None = None

    def see(self, row: Sequence[float]) -> Sight:
        """See `Model.see`."""
        sight = self.base.see(row)
        if not sight.inputs:
            return sight
        told = tuple(log_odds(min(max(model.see(row).prediction, 1e-3), 0.999)) for model in self.trees.values())
        inputs = (*sight.inputs, *told)
        return Sight(self._combined().predict(inputs), inputs)

    def learn(self, row: Sequence[float], label: bool, weight: float = 1.0) -> None:
        """See `Model.learn`."""
        for model in self.trees.values():
            model.learn(row, label, weight)
        self.base.learn(row, label, weight)

    def combine(self, sight: Sight, label: bool, weight: float = 1.0) -> None:
        """See `Model.combine`."""
        known = len(sight.inputs) - len(self.trees)
        self.base.combine(Sight(sight.prediction, sight.inputs[: max(known, 0)]), label, weight)
        if sight.inputs:
            self._combined().learn(sight.inputs, float(label), weight)

    def to_bytes(self) -> bytes:
        """See `Model.to_bytes`."""
        trees = {name: model.to_bytes() for name, model in self.trees.items()}
        stack = None if self._stack is None else self._stack.state()
        return msgspec.msgpack.encode(F4TreesState(self.base.to_bytes(), trees, stack))

    @classmethod
    def from_bytes(cls, data: bytes, restore: Mapping[str, Restore]) -> F4Trees:
        """The model that wrote `data`; `restore` says by a tree's name what makes it.

        Raises msgspec.DecodeError or ValueError for other bytes, KeyError where a name is missing.
        """
        state = msgspec.msgpack.decode(data, type=F4TreesState)
        model = cls(F4.from_bytes(state.base), {name: restore[name](tree) for name, tree in state.trees.items()})
        model._stack = None if state.stack is None else Stack.restore(state.stack)
        return model

    def _combined(self) -> Stack:
        if self._stack is None:
            inputs = len(self.base.rates) + len(self.base.memory) + len(self.trees)
            self._stack = Stack(len(self.base.rates), inputs, log_odds(self.base.base_rate))
        return self._stack
