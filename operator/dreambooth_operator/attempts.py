"""The ledger of pods: each is counted once when it is first seen and once when it ends, by UID.

Pods of a Job follow one another (parallelism 1, replaced only when Failed), and ended ones stay until the Job goes. So
the five attempts kept in status are enough to know all that were counted: an older pod is one of those dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dreambooth_api import reasons
from dreambooth_api.reasons import Retry
from dreambooth_api.status import Attempt, Attempts
from dreambooth_operator.observe import Observed, Pod

KEPT = 5


@dataclass(frozen=True, slots=True)
class Ledger:
    attempts: Attempts
    last_attempts: tuple[Attempt, ...]  # oldest first; one without an end runs or waits
    active_seconds: int


def tally(observed: Observed, now: datetime) -> Ledger:
    """The ledger in status, brought up to date with the pods."""
    entries = list(observed.status.last_attempts)
    counts = observed.status.attempts.model_dump()
    active_seconds = observed.status.active_seconds
    present = {pod.uid for pod in observed.pods}
    by_us = stopped_by_us(observed)

    def close(index: int, entry: Attempt, interrupted: bool, failed: bool) -> None:
        entries[index] = entry
        counts["interrupted"] += interrupted and not by_us
        counts["failed"] += failed

    for index, entry in enumerate(entries):
        if entry.end_time is None and entry.pod_uid not in present:  # its last state was never seen
            update = {"end_time": stamp(now), "reason": reasons.INTERRUPTED.name}
            close(index, entry.model_copy(update=update), interrupted=True, failed=False)
    for pod in observed.pods:
        index = next((i for i, entry in enumerate(entries) if entry.pod_uid == pod.uid), -1)
        if index < 0:
            if len(entries) >= KEPT and stamp(pod.created) <= (entries[0].start_time or ""):
                continue  # counted and dropped
            entries.append(_entry(pod))
            counts["started"] += 1
            index = len(entries) - 1
        if entries[index].end_time is not None:
            continue
        if not pod.over:
            entries[index] = _entry(pod)
            continue
        free = pod.disrupted or pod.reason.retry is Retry.FREE
        close(index, _ended(pod, now), interrupted=free, failed=not free and pod.reason is not reasons.COMPLETED)
        active_seconds += _running_seconds(pod, now)
    return Ledger(Attempts(**counts), tuple(entries[-KEPT:]), active_seconds)


def stopped_by_us(observed: Observed) -> bool:
    """Whether an interruption now is of our own making and no preemption."""
    spec = observed.job.spec
    return observed.terminal or (spec is not None and spec.run_policy.suspend)


def stamp(time: datetime) -> str:
    """As Kubernetes writes times."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _entry(pod: Pod) -> Attempt:
    return Attempt(
        pod_uid=pod.uid, run_index=pod.run_index, pod=pod.key[1], node=pod.node, start_time=stamp(pod.created)
    )


def _ended(pod: Pod, now: datetime) -> Attempt:
    ended = {
        "end_time": stamp(pod.ended or now),
        "exit_code": pod.exit_code,
        "reason": pod.reason.name,
        "step": pod.outcome.step if pod.outcome else None,
    }
    return _entry(pod).model_copy(update=ended)


def _running_seconds(pod: Pod, now: datetime) -> int:
    if pod.started is None:
        return 0
    return max(0, round(((pod.ended or now) - pod.started).total_seconds()))
