"""What decide() answers with: data, carried out by reconcile.py."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth_api.reasons import Reason
from dreambooth_operator.observe import Child


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the TrainingJob ended, for good."""

    reason: Reason
    message: str
    succeeded: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the plan cannot be carried out for now; it is shown and tried again."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """At most one act, then one status write. A verdict is written first and its consequences follow from it."""

    create: int | None = None  # run index of the child to create
    delete: Child | None = None
    delete_self: bool = False
    verdict: Verdict | None = None
    trouble: Trouble | None = None
    again_seconds: float | None = None
