"""Two Jobs at once: the one of the earlier run goes.

It takes a write that was sent by the last leader and arrived only after its successor had suspended and resumed the
TrainingJob; the publish protocol keeps even that from mixing two results.
"""

from __future__ import annotations

from datetime import datetime

from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan


def rule(observed: Observed, now: datetime) -> Plan | None:
    older = next((child for child in observed.children[:-1] if child.active and not child.deleting), None)
    return Plan(delete=older) if older else None
