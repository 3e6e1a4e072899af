"""One table of situations and what is decided in each."""

from __future__ import annotations

from typing import Any

import pytest

from dreambooth_api import reasons
from dreambooth_api.status import Outcome
from dreambooth_operator.decide import decide
from dreambooth_operator.observe import Observed
from tests.unit.operator.builders import NOW, SUCCESS, at, child_record, pod_record, record, seen

FINISHED: dict[str, Any] = {
    "completionTime": at(-60),
    "conditions": [
        {"type": t, "status": "True", "reason": "Completed", "lastTransitionTime": at(-60)}
        for t in ("Succeeded", "Finished")
    ],
}
SUSPENDED: dict[str, Any] = {
    "runIndex": 2,
    "conditions": [{"type": "Suspended", "status": "True", "reason": "Suspended", "lastTransitionTime": at(-60)}],
}
OVER_LIMIT = 'Usage of EmptyDir volume "scratch" exceeds the limit "40Gi". '


def summary(observed: Observed) -> str:
    plan = decide(observed, NOW)
    acts = [
        f"create {plan.create}" if plan.create is not None else "",
        f"delete {plan.delete.key[1]}" if plan.delete else "",
        "delete self" if plan.delete_self else "",
        f"{'succeed' if plan.verdict.succeeded else 'fail'} {plan.verdict.reason.name}" if plan.verdict else "",
        f"trouble {plan.trouble.reason}" if plan.trouble else "",
    ]
    return ", ".join(filter(None, acts)) or "wait"


def policy(**values: Any) -> Any:
    return record(policy=values)


CASES: dict[str, tuple[Observed, str]] = {
    "new": (seen(), "create 0"),
    "being deleted": (seen(record(deletionTimestamp=at(0))), "wait"),
    "being deleted while suspended": (
        seen(record(policy={"suspend": True}, deletionTimestamp=at(0)), child_record()),
        "wait",
    ),
    "child exists, no pod yet": (seen(record(), child_record()), "wait"),
    "child runs": (seen(record(), child_record(), pod_record()), "wait"),
    "child is gone but its pod still stops": (seen(record(), pod_record()), "wait"),
    "child was deleted by somebody": (seen(record(status={"runIndex": 1})), "create 1"),
    "complete": (
        seen(record(), child_record(condition=("Complete", "")), pod_record(0, phase="Succeeded", exit_code=0)),
        "succeed Completed",
    ),
    "complete, pod collected": (seen(record(), child_record(condition=("Complete", ""))), "succeed Completed"),
    "complete, watch of pods is behind": (
        seen(record(), child_record(condition=("Complete", "")), pod_record()),
        "wait",
    ),
    "complete while it was being suspended": (
        seen(policy(suspend=True), child_record(condition=("Complete", ""))),
        "succeed Completed",
    ),
    "failed for good": (
        seen(
            record(),
            child_record(condition=("Failed", "PodFailurePolicy")),
            pod_record(0, phase="Failed", exit_code=70, outcome=Outcome(reason="StorageDenied", message="No.")),
        ),
        "fail StorageDenied",
    ),
    "failed for good, last words lost": (
        seen(
            record(),
            child_record(condition=("Failed", "PodFailurePolicy")),
            pod_record(0, phase="Failed", exit_code=70, message="Traceback ..."),
        ),
        "fail StorageDenied",
    ),
    "failed for good, pod collected": (
        seen(
            record(status={"lastAttempts": [{"podUid": "p", "runIndex": 0, "reason": "ImagesMissing"}]}),
            child_record(condition=("Failed", "PodFailurePolicy")),
        ),
        "fail ImagesMissing",
    ),
    "failed too often": (
        seen(
            record(),
            child_record(condition=("Failed", "BackoffLimitExceeded")),
            pod_record(0, phase="Failed", exit_code=75),
        ),
        "fail BackoffLimitExceeded",
    ),
    "failed for a reason that only the Job controller knows": (
        seen(record(), child_record(condition=("Failed", "Strange"))),
        "fail InternalError",
    ),
    "killed for its memory, although the Job would try again": (
        seen(record(), child_record(), pod_record(0, phase="Failed", exit_code=137, why="OOMKilled")),
        "fail MemoryLimitExceeded",
    ),
    "evicted for its own storage, although the Job would try again": (
        seen(record(), child_record(), pod_record(0, phase="Failed", exit_code=137, evicted=OVER_LIMIT)),
        "fail ScratchFull",
    ),
    "evicted because the node ran short": (
        seen(record(), child_record(), pod_record(0, phase="Failed", exit_code=137, evicted="low", disrupted=True)),
        "wait",
    ),
    "failed once, the Job controller will try again": (
        seen(record(), child_record(), pod_record(0, phase="Failed", exit_code=75)),
        "wait",
    ),
    "suspended before it began": (seen(policy(suspend=True)), "wait"),
    "suspended while running": (seen(policy(suspend=True), child_record(), pod_record()), "delete rex-r0"),
    "suspended, stopping": (seen(policy(suspend=True), child_record(deletionTimestamp=at(0)), pod_record()), "wait"),
    "resumed": (seen(record(status=SUSPENDED)), "create 3"),
    "resumed, child made before a crash": (seen(record(status=SUSPENDED), child_record(run=3)), "wait"),
    "two Jobs at once, by a write that came late": (
        seen(record(status={"runIndex": 1}), child_record(), child_record(run=1), pod_record(run=1)),
        "delete rex-r0",
    ),
    "an ended Job beside its successor": (
        seen(record(status={"runIndex": 1}), child_record(deletionTimestamp=at(0)), child_record(run=1)),
        "wait",
    ),
    "resumed before it had stopped": (seen(record(), child_record(deletionTimestamp=at(0))), "wait"),
    "ran too long": (seen(policy(activeDeadlineSeconds=59), child_record(), pod_record()), "fail DeadlineExceeded"),
    "ran too long over two attempts": (
        seen(record(policy={"activeDeadlineSeconds": 100}, status={"activeSeconds": 41}), child_record(), pod_record()),
        "fail DeadlineExceeded",
    ),
    "ran not too long": (seen(policy(activeDeadlineSeconds=61), child_record(), pod_record()), "wait"),
    "waiting does not count as running": (
        seen(policy(activeDeadlineSeconds=10), child_record(), pod_record(0, phase="Pending")),
        "wait",
    ),
    "interrupted as often as allowed": (
        seen(record(policy={"maxPreemptions": 2}, status={"attempts": {"interrupted": 2}}), child_record()),
        "wait",
    ),
    "interrupted once more": (
        seen(
            record(policy={"maxPreemptions": 2}, status={"attempts": {"interrupted": 2}}),
            child_record(),
            pod_record(0, phase="Failed", exit_code=143),
        ),
        "fail PreemptionLimitExceeded",
    ),
    "silent": (
        seen(policy(progressTimeoutSeconds=30), child_record(), pod_record(), heard=NOW.replace(minute=0, hour=11)),
        "fail Stalled",
    ),
    "never heard, its reports may have no way": (
        seen(policy(progressTimeoutSeconds=30), child_record(), pod_record(ran=(-4000, 0)), heard=None),
        "wait",
    ),
    "heard lately": (seen(policy(progressTimeoutSeconds=30), child_record(), pod_record(), heard=NOW), "wait"),
    "no node for too long": (
        seen(
            policy(startupDeadlineSeconds=60),
            child_record(),
            pod_record(0, phase="Pending", unschedulable="0/3 nodes are available"),
        ),
        "fail StartupDeadlineExceeded",
    ),
    "no pod for too long": (seen(policy(startupDeadlineSeconds=60), child_record()), "fail StartupDeadlineExceeded"),
    "no node, but still time": (
        seen(policy(startupDeadlineSeconds=600), child_record(), pod_record(0, phase="Pending", unschedulable="no")),
        "wait",
    ),
    "second attempt has its own time to start": (
        seen(
            policy(startupDeadlineSeconds=60),
            child_record(created=-9000),
            pod_record(0, phase="Failed", exit_code=75, created=-9000),
            pod_record(1, phase="Pending", created=-30),
        ),
        "wait",
    ),
    "between two attempts the Job controller waits on purpose": (
        seen(
            policy(startupDeadlineSeconds=60),
            child_record(created=-9000),
            pod_record(0, phase="Failed", exit_code=75, created=-9000),
        ),
        "wait",
    ),
    "a pod that somebody deleted is no failed start": (
        seen(
            record(
                policy={"startupDeadlineSeconds": 60},
                status={"lastAttempts": [{"podUid": "p", "runIndex": 0, "startTime": at(-8000)}]},
            ),
            child_record(created=-9000),
        ),
        "wait",
    ),
    "image cannot be pulled, still time": (
        seen(record(), child_record(), pod_record(0, phase="Pending", waiting=("ImagePullBackOff", "no such tag"))),
        "wait",
    ),
    "image could not be pulled in time": (
        seen(
            policy(startupDeadlineSeconds=60),
            child_record(),
            pod_record(0, phase="Pending", waiting=("ErrImagePull", "no such tag")),
        ),
        "fail ImagePullFailed",
    ),
    "image name cannot be one": (
        seen(record(), child_record(), pod_record(0, phase="Pending", waiting=("InvalidImageName", "bad"))),
        "fail ImagePullFailed",
    ),
    "finished": (seen(record(status=FINISHED), child_record(condition=("Complete", ""))), "wait"),
    "finished, child deleted": (seen(record(status=FINISHED)), "wait"),
    "finished, but its child still runs": (
        seen(record(status=FINISHED), child_record(), pod_record()),
        "delete rex-r0",
    ),
    "finished and suspended afterwards": (seen(record(policy={"suspend": True}, status=FINISHED)), "wait"),
    "finished, lifetime not over": (seen(record(policy={"ttlSecondsAfterFinished": 61}, status=FINISHED)), "wait"),
    "finished, lifetime over": (
        seen(record(policy={"ttlSecondsAfterFinished": 60}, status=FINISHED), child_record(condition=("Complete", ""))),
        "delete self",
    ),
    "of a newer version": (seen(record(more={"magic": True})), "trouble InvalidSpec"),
    "of a newer version, and running": (seen(record(more={"magic": True}), child_record()), "trouble InvalidSpec"),
    "status of another version": (seen(record(status={"conditions": "none"})), "trouble InvalidSpec"),
}


@pytest.mark.parametrize("case", CASES)
def test_decision(case: str) -> None:
    observed, expected = CASES[case]
    assert summary(observed) == expected


@pytest.mark.parametrize(
    ("observed", "seconds"),
    [
        (seen(policy(activeDeadlineSeconds=100), child_record(), pod_record()), 40),
        (seen(policy(startupDeadlineSeconds=90), child_record(), pod_record(0, phase="Pending")), 10),
        (seen(policy(progressTimeoutSeconds=45), child_record(), pod_record(), heard=NOW), 45),
        (seen(record(policy={"ttlSecondsAfterFinished": 90}, status=FINISHED)), 30),
        (
            seen(policy(activeDeadlineSeconds=100, progressTimeoutSeconds=30), child_record(), pod_record(), heard=NOW),
            30,
        ),
        (seen(record(), child_record(), pod_record()), None),
    ],
)
def test_r17_the_next_look_is_at_the_earliest_deadline(observed: Observed, seconds: float | None) -> None:
    assert decide(observed, NOW).again_seconds == seconds


def test_a_deadline_that_passes_while_the_pod_stops_is_not_looked_at_again_and_again() -> None:
    observed = seen(policy(suspend=True, activeDeadlineSeconds=1), child_record(deletionTimestamp=at(0)), pod_record())
    assert decide(observed, NOW).again_seconds is None


def test_what_the_job_said_is_what_the_user_reads() -> None:
    words = Outcome(reason="ImagesUnusable", message="image 7 of 12 (a.webp) is 212x90 px.")
    pod = pod_record(0, phase="Failed", exit_code=66, outcome=words)
    verdict = decide(seen(record(), child_record(condition=("Failed", "PodFailurePolicy")), pod), NOW).verdict
    assert verdict is not None
    assert verdict.message == f"image 7 of 12 (a.webp) is 212x90 px. {reasons.IMAGES_UNUSABLE.advice}"


def test_success_is_what_the_last_words_say() -> None:
    pod = pod_record(0, phase="Succeeded", exit_code=0, outcome=SUCCESS)
    assert decide(seen(record(), child_record(condition=("Complete", "")), pod), NOW).verdict is not None
