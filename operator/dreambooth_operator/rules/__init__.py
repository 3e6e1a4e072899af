"""One rule, one file: `(observed, now) -> Plan | None`, pure; None leaves the answer to the next.

What has happened for good comes before what is wished: a Job that completed while it was being suspended is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan
from dreambooth_operator.rules import (
    completed,
    create,
    deadline,
    deleted,
    failed,
    finished,
    invalid,
    preempted,
    running,
    stalled,
    startup,
    superseded,
    suspended,
)

Rule = Callable[[Observed, datetime], Plan | None]
Clock = Callable[[Observed, datetime], float | None]

RULES: tuple[Rule, ...] = (
    deleted.rule,
    finished.rule,
    invalid.rule,
    completed.rule,
    failed.rule,
    suspended.rule,
    superseded.rule,
    deadline.rule,
    preempted.rule,
    stalled.rule,
    startup.rule,
    running.rule,
    create.rule,
)

# Seconds until a rule would answer differently although nothing changed but the time.
CLOCKS: tuple[Clock, ...] = (
    finished.remaining_seconds,
    deadline.remaining_seconds,
    stalled.remaining_seconds,
    startup.remaining_seconds,
)
