"""A Job exists, or pods of one that is gone still end: there is never more than one writer, so nothing is created."""

from __future__ import annotations

from datetime import datetime

from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan


def rule(observed: Observed, now: datetime) -> Plan | None:
    return Plan() if observed.children or not all(pod.over for pod in observed.pods) else None
