"""How a pod's end is told: what the kubelet and the controllers leave behind, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from dreambooth_api import reasons
from dreambooth_api.reasons import Reason
from dreambooth_api.status import Outcome
from dreambooth_operator.attempts import tally
from dreambooth_operator.decide import decide
from dreambooth_operator.observe import project_pod
from tests.unit.operator.builders import NOW, child_record, pod, record, seen

SAVED = Outcome(reason="Interrupted", step=300, checkpoint_step=300)
OWN_LIMIT = 'Usage of EmptyDir volume "scratch" exceeds the limit "40Gi". '
SHORTAGE = "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 900Mi. "

# What is left of the pod -> its reason, and how it is counted.
ENDINGS: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "drained, and it saved in time": (
        {"exit_code": 143, "outcome": SAVED, "disrupted": True}, reasons.INTERRUPTED, "interrupted",
    ),
    "drained, and its grace ran out": ({"exit_code": 137, "disrupted": True}, reasons.INTERRUPTED, "interrupted"),
    "its node is gone": ({"disrupted": True}, reasons.INTERRUPTED, "interrupted"),
    "deleted by a person": ({"exit_code": 143, "outcome": SAVED}, reasons.INTERRUPTED, "interrupted"),
    "deleted by a person, and its grace ran out": ({"exit_code": 137}, reasons.KILLED, "failed"),
    "evicted, because the node ran short": (
        {"exit_code": 137, "disrupted": True, "evicted": SHORTAGE}, reasons.INTERRUPTED, "interrupted",
    ),
    "evicted for more local storage than it may use": (
        {"exit_code": 137, "evicted": OWN_LIMIT}, reasons.SCRATCH_FULL, "failed",
    ),
    "evicted for that, and it still said something": (
        {"exit_code": 143, "outcome": SAVED, "evicted": OWN_LIMIT}, reasons.SCRATCH_FULL, "failed",
    ),
    "over its memory limit": ({"exit_code": 137, "why": "OOMKilled"}, reasons.MEMORY_LIMIT, "failed"),
    "only a child process was over the memory limit": (
        {"exit_code": 137, "why": "OOMKilled", "outcome": Outcome(reason="Killed")}, reasons.MEMORY_LIMIT, "failed",
    ),
    "killed by something else": ({"exit_code": 137}, reasons.KILLED, "failed"),
    "refused by the kubelet": ({}, reasons.KILLED, "failed"),
}  # fmt: skip


@pytest.mark.parametrize("what", ENDINGS)
def test_an_ending_has_its_reason_and_is_counted_as_such(what: str) -> None:
    left, reason, counted = ENDINGS[what]
    ended = project_pod(pod(phase="Failed", **left))
    assert ended.reason is reason
    counts = tally(seen(record(), child_record(), ended), NOW).attempts.model_dump()
    assert counts == {"started": 1, "failed": 0, "interrupted": 0} | {counted: 1}


def test_the_kubelets_words_reach_the_verdict() -> None:
    ended = project_pod(pod(phase="Failed", exit_code=137, evicted=OWN_LIMIT))
    verdict = decide(seen(record(), child_record(), ended), NOW).verdict
    assert verdict is not None
    assert 'exceeds the limit "40Gi"' in verdict.message
    assert "runtime.scratch.sizeLimit" in verdict.message


@pytest.mark.parametrize(("reason", "quoted"), [("MemoryLimitExceeded", True), ("Killed", False)])
def test_the_pods_words_about_its_memory_are_quoted_when_it_knew(reason: str, quoted: bool) -> None:
    said = Outcome(reason=reason, message="7 of 8 GiB were used.")
    ended = project_pod(pod(phase="Failed", exit_code=137, why="OOMKilled", outcome=said))
    verdict = decide(seen(record(), child_record(), ended), NOW).verdict
    assert verdict is not None
    assert ("7 of 8 GiB" in verdict.message) is quoted
    assert "runtime.resources.memory" in verdict.message
