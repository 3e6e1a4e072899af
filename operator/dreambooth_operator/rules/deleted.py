"""A TrainingJob being deleted: the garbage collector takes its Job and pods along; nothing is left to do."""

from __future__ import annotations

from datetime import datetime

from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan


def rule(observed: Observed, now: datetime) -> Plan | None:
    return Plan() if observed.job.deleting else None
