"""Pods are counted once each, whatever is seen or missed of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from dreambooth_api.status import Outcome
from dreambooth_operator.attempts import Ledger, tally
from dreambooth_operator.observe import Pod
from tests.unit.operator.builders import NOW, child_record, pod_record, record, seen


def after(*sights: list[Pod], policy: dict[str, Any] | None = None) -> Ledger:
    """The ledger after each of these sets of pods was seen in turn, each time from the stored status alone."""
    status: dict[str, Any] = {}
    ledger = None
    for pods in sights:
        ledger = tally(seen(record(status=status, policy=policy), child_record(), *pods), NOW)
        status = {
            "attempts": ledger.attempts.model_dump(),
            "lastAttempts": [a.model_dump(by_alias=True, exclude_none=True) for a in ledger.last_attempts],
            "activeSeconds": ledger.active_seconds,
        }
    assert ledger is not None
    return ledger


def counts(ledger: Ledger) -> tuple[int, int, int]:
    return ledger.attempts.started, ledger.attempts.failed, ledger.attempts.interrupted


RUNS = pod_record(0)
FAILED = pod_record(0, phase="Failed", exit_code=75)
STOPPED = pod_record(0, phase="Failed", exit_code=143)
EVICTED = pod_record(0, phase="Failed", exit_code=1, disrupted=True)
DONE = pod_record(0, phase="Succeeded", exit_code=0)
NEXT = pod_record(1, created=-5)


def test_a_pod_is_counted_when_seen_and_when_ended() -> None:
    assert counts(after([RUNS])) == (1, 0, 0)
    assert counts(after([RUNS], [RUNS], [FAILED], [FAILED])) == (1, 1, 0)
    assert counts(after([RUNS], [STOPPED])) == (1, 0, 1)
    assert counts(after([RUNS], [EVICTED])) == (1, 0, 1)
    assert counts(after([RUNS], [DONE])) == (1, 0, 0)


def test_missed_transitions_count_the_same() -> None:
    assert counts(after([FAILED, NEXT])) == counts(after([RUNS], [FAILED], [FAILED, NEXT])) == (2, 1, 0)
    assert counts(after([RUNS], [NEXT])) == (2, 0, 1)  # deleted unseen: nobody's fault


def test_a_pod_that_vanished_is_an_interruption_unless_it_was_asked_for() -> None:
    assert counts(after([RUNS], [])) == (1, 0, 1)
    assert counts(after([RUNS], [], policy={"suspend": True})) == (1, 0, 0)
    assert counts(after([RUNS], [STOPPED], policy={"suspend": True})) == (1, 0, 0)


def test_counters_stay_right_when_more_pods_remain_than_attempts_are_kept() -> None:
    pods = [pod_record(n, phase="Failed", exit_code=75, created=-100 + n) for n in range(9)]
    ledger = after(pods[:6], pods[:6], pods, pods)
    assert counts(ledger) == (9, 9, 0)
    assert [a.pod_uid for a in ledger.last_attempts] == [p.uid for p in pods[-5:]]


def test_counters_never_decrease_when_pods_are_collected() -> None:
    pods = [pod_record(n, phase="Failed", exit_code=75, created=-100 + n) for n in range(4)]
    sights = [pods[:1], pods[:3], pods[2:], [], pods[3:]]
    ledgers = [after(*sights[: n + 1]) for n in range(len(sights))]
    assert [counts(ledger) for ledger in ledgers][-1] == (4, 4, 0)
    assert all(counts(a) <= counts(b) for a, b in pairwise(ledgers))


def test_running_time_is_summed_once() -> None:
    assert after([RUNS], [FAILED], [FAILED], [FAILED, NEXT]).active_seconds == 50


def test_an_attempt_says_where_it_ran_and_how_it_ended() -> None:
    pod = pod_record(0, phase="Failed", exit_code=80, outcome=Outcome(reason="Diverged", step=412))
    (attempt,) = after([pod]).last_attempts
    assert (attempt.pod, attempt.node, attempt.exit_code, attempt.reason, attempt.step) == (
        "rex-r0-p0", "node-1", 80, "Diverged", 412,
    )  # fmt: skip
