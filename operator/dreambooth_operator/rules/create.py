"""Nothing stands in the way of a run: its Job is created. The run index rises with every resume."""

from __future__ import annotations

from datetime import datetime

from dreambooth_api.status import ConditionType
from dreambooth_operator.observe import Observed, is_true
from dreambooth_operator.plan import Plan


def rule(observed: Observed, now: datetime) -> Plan | None:
    resumed = is_true(observed.status, ConditionType.SUSPENDED)
    return Plan(create=observed.status.run_index + (1 if resumed else 0))
