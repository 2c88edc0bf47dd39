"""Label policies: how an outcome's learner turns the stages of a window into weighted labels.

A window's label comes late, so a learner has to choose between an early guess and a late truth. A policy makes that
choice for one row at a time and knows nothing else, so that several can learn side by side from the same examples.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from schemas.example import Stage


class Target(NamedTuple):
    """What a row teaches: the label, and how much it counts."""

    label: bool
    weight: float


class Policy(Protocol):
    """Chooses the target of a row."""

    @property
    def name(self) -> str:
        """Key in `POLICIES`, stored with a learner's state."""

    @property
    def stages(self) -> frozenset[Stage]:
        """The stages that teach anything; `target` is asked about these only."""

    @property
    def final(self) -> frozenset[Stage]:
        """The stages whose label is taken for the last word, by which a model's own predictions are put right."""

    def target(self, stage: Stage, label: int, prediction: float) -> Target:
        """The target of one row.

        `prediction` is the learner's own probability for the row at this moment, taken as a constant.
        """


class FakeNegativeWeighting:
    """Every exposure is a negative at once, every fulfilment a positive, weighted so that the excess negatives cancel.

    With weights (1-p)(1+p) and 1+p the expected step is zero exactly where p is the true rate, although each row that
    is fulfilled was learned as a negative before. Ktena et al., "Addressing Delayed Feedback for Continuous Training
    with Neural Networks in CTR Prediction", RecSys 2019. It swings at high learning rates.

    >>> FakeNegativeWeighting().target("exposed", 0, 0.5)
    Target(label=False, weight=0.75)
    """

    name: Final = "fake-negative-weighting"
    stages: Final = frozenset[Stage](("exposed", "fulfilled"))
    final: Final = frozenset[Stage](("matured",))

    def target(self, stage: Stage, label: int, prediction: float) -> Target:
        """See `Policy.target`."""
        if stage == "exposed":
            return Target(False, (1.0 - prediction) * (1.0 + prediction))
        return Target(True, 1.0 + prediction)


class Wait:
    """Learns each row once, with its final label, when its window has closed: unbiased, and a window late."""

    name: Final = "wait"
    stages: Final = frozenset[Stage](("matured",))
    final: Final = stages

    def target(self, stage: Stage, label: int, prediction: float) -> Target:
        """See `Policy.target`."""
        return Target(label == 1, 1.0)


class Immediate:
    """Every exposure is a negative at once, every fulfilment a positive: biased, and only there to be compared with.

    Each row that is fulfilled was learned as a negative too, so a true rate of q comes out as q / (1 + q).
    """

    name: Final = "immediate"
    stages: Final = frozenset[Stage](("exposed", "fulfilled"))
    final: Final = stages

    def target(self, stage: Stage, label: int, prediction: float) -> Target:
        """See `Policy.target`."""
        return Target(stage == "fulfilled", 1.0)


POLICIES: Final[dict[str, Policy]] = {policy.name: policy for policy in (FakeNegativeWeighting(), Wait(), Immediate())}
"""Every label policy by name."""
