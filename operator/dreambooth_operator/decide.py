"""(what is observed, now) -> Plan. Pure: the rules in `rules/` are asked in order and the first answer wins."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan
from dreambooth_operator.rules import CLOCKS, RULES


def decide(observed: Observed, now: datetime) -> Plan:
    plan = next(plan for rule in RULES if (plan := rule(observed, now)) is not None)
    if plan.verdict:
        return replace(plan, again_seconds=0)
    waits = [seconds for clock in CLOCKS if (seconds := clock(observed, now)) is not None]
    waits += [plan.again_seconds] if plan.again_seconds is not None else []
    ahead = [seconds for seconds in waits if seconds > 0]  # what is past has been asked above
    return replace(plan, again_seconds=min(ahead) if ahead else None)
