"""Who speaks: the champion among contestants, deposed only by evidence that holds however often one looks.

At each matured label every challenger's log-loss is compared with the champion's on the same row. A bettor who stakes a
part of its money on the challenger being better can't grow rich if it is not; so money that has grown is evidence,
at whatever moment it is counted (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
JRSS B 2024; Ville's inequality).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from models.outcomes.evaluation import log_loss

ERROR: Final = 0.05
"""Chance that a champion that is as good as all others is deposed within one `SPAN`."""
SPAN: Final = 20_000
"""Labels after which the evidence begins anew: what has long been right must not outweigh for ever what is now."""
STAKES: Final = (0.01, 0.03, 0.1, 0.3, 0.9)
"""Parts of its money that a bettor stakes; one bettor each, for nobody knows how large the difference is."""
BOUND: Final = 1.0
"""Nats that one label counts at most, for either: a bet needs a bound on what can be lost."""


class ChampionshipState(msgspec.Struct, frozen=True, kw_only=True):
    """What a championship is restored from."""

    names: tuple[str, ...]
    champion: str
    judged: int
    reign: int
    crowned: int
    money: list[list[float]]


class Championship:
    """Keeps the champion of `names`.

    `judged` counts labels, `crowned` changes of the champion, and `reign` the labels since the evidence began.

    >>> championship = Championship(("old", "new"), "old")
    >>> for n in range(400):
    ...     championship.judge((0.5, 0.6), 1)
    >>> championship.champion, championship.crowned
    ('new', 1)
    """

    def __init__(self, names: Sequence[str], champion: str) -> None:
        """Begin with `champion`, one of `names`; raises ValueError for another."""
        if champion not in names:
            raise ValueError(f"no contestant is called {champion!r}, expected one of {sorted(names)}")
        self.names = tuple(names)
        self.champion = champion
        self.judged = self.reign = self.crowned = 0
        self._begin()

    def judge(self, said: Sequence[float | None], label: int) -> None:
        """Take in what every contestant, in the order of `names`, had said of a row whose label has matured.

        Of None, who had not entered yet, nothing is learned; the champion must have said something.
        """
        losses = [None if chance is None else log_loss(chance, label) for chance in said]
        best = losses[self.names.index(self.champion)]
        if best is None:
            return
        self.judged += 1
        self.reign += 1
        for money, loss in zip(self._money, losses, strict=True):
            gain = 0.0 if loss is None else min(max(best - loss, -BOUND), BOUND) / BOUND
            for place, stake in enumerate(STAKES if gain else ()):
                money[place] += math.log1p(stake * gain)
        self._decide()

    def evidence(self) -> dict[str, float]:
        """By challenger, the logarithm of its bettors' mean money; above `threshold` it becomes the champion."""
        return {
            name: _log_mean_exp(money)
            for name, money in zip(self.names, self._money, strict=True)
            if name != self.champion
        }

    @property
    def threshold(self) -> float:
        """The evidence that is asked for: all challengers together are to be wrong no more often than `ERROR`."""
        return math.log(max(len(self.names) - 1, 1) / ERROR)

    def enter(self, name: str) -> None:
        """Let one more challenge the champion, or one of this name that has begun anew."""
        if name not in self.names:
            self.names = (*self.names, name)
            self._money.append([])
        self._money[self.names.index(name)] = [0.0] * len(STAKES)

    def leave(self, name: str, heir: str) -> None:
        """Let the contestant called `name` challenge no more; `heir` is champion where it was."""
        if name == self.champion:
            self.crown(heir)
        place = self.names.index(name)
        self.names = (*self.names[:place], *self.names[place + 1 :])
        del self._money[place]

    def crown(self, name: str) -> None:
        """Make `name` the champion, whatever the evidence; raises ValueError where there is no such contestant."""
        if name not in self.names:
            raise ValueError(f"no contestant is called {name!r}, expected one of {sorted(self.names)}")
        self.crowned += name != self.champion
        self.champion = name
        self._begin()

    def state(self) -> ChampionshipState:
        """Everything; it shares the money with this object, so encode it before the next `judge`."""
        return ChampionshipState(
            names=self.names,
            champion=self.champion,
            judged=self.judged,
            reign=self.reign,
            crowned=self.crowned,
            money=self._money,
        )

    @classmethod
    def restore(cls, state: ChampionshipState) -> Championship:
        """The championship that wrote `state`, to the bit; raises ValueError where its champion has no name there."""
        championship = cls(state.names, state.champion)
        championship.judged, championship.reign, championship.crowned = state.judged, state.reign, state.crowned
        championship._money = state.money
        return championship

    def _begin(self) -> None:
        self.reign = 0
        self._money = [[0.0] * len(STAKES) for _ in self.names]

    def _decide(self) -> None:
        evidence = self.evidence()
        if evidence:
            strongest = max(evidence, key=evidence.__getitem__)
            if evidence[strongest] >= self.threshold:
                self.crown(strongest)
                return
        if self.reign >= SPAN:
            self._begin()


def _log_mean_exp(logs: Sequence[float]) -> float:
    most = max(logs)
    return most + math.log(math.fsum(math.exp(each - most) for each in logs) / len(logs))
