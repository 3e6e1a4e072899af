"""A TrainingJob that cannot be read, stored by another version: it is said so, and what runs goes on untouched."""

from __future__ import annotations

from datetime import datetime

from dreambooth_api import reasons
from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan, Trouble


def rule(observed: Observed, now: datetime) -> Plan | None:
    if observed.job.spec is not None and observed.job.status is not None:
        return None
    return Plan(trouble=Trouble(reasons.INVALID_SPEC.name, observed.job.error))
