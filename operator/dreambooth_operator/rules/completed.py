"""The Job is Complete: exit code 0 is given only once the result and its manifest stand."""

from __future__ import annotations

from datetime import datetime

from dreambooth_api import reasons
from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan, Verdict


def rule(observed: Observed, now: datetime) -> Plan | None:
    if not any(child.complete for child in observed.children):
        return None
    if not all(pod.over for pod in observed.pods):
        return Plan(again_seconds=1)  # the watch of pods is behind that of Jobs; the last words are on their way
    return Plan(verdict=Verdict(reasons.COMPLETED, reasons.COMPLETED.meaning, succeeded=True))
