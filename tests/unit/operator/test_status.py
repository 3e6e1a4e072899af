"""Conditions, state, message and columns of one table of situations; what is final; what is worth a write."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dreambooth_api import reasons
from dreambooth_api.status import ConditionType, Outcome, ProgressStatus, Purge, TrainingJobStatus
from dreambooth_operator.decide import decide
from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Trouble
from dreambooth_operator.status import build, changes, duration
from tests.unit.operator.builders import NOW, SUCCESS, at, child_record, pod_record, record, seen
from tests.unit.operator.memory import merged

TRAINING = ProgressStatus(
    pod_uid="pod-0-0", sequence=7, observed_time=at(0), stage="train", step=450, total_steps=800, percentage=56,
    loss="0.1234", eta_seconds=850,
)  # fmt: skip
FETCHING = TRAINING.model_copy(update={"stage": "fetch", "step": 0, "total_steps": 0, "loss": None})


def status_of(observed: Observed, trouble: Trouble | None = None) -> TrainingJobStatus:
    plan = decide(observed, NOW)
    return build(observed, plan, trouble or plan.trouble, NOW)


def facts(status: TrainingJobStatus) -> dict[str, str]:
    return {c.type: f"{c.status} {c.reason}" for c in status.conditions}


def test_every_condition_is_set_at_first_sight() -> None:
    status = status_of(seen())
    assert [c.type for c in status.conditions] == list(ConditionType)
    assert facts(status)["Succeeded"] == "Unknown NotFinished"
    assert facts(status)["DataPurged"] == "Unknown NoPod"
    assert all(c.observed_generation == 1 for c in status.conditions)


NOT_EMPTIED = Outcome(reason="StorageUnavailable", purge=Purge(files=1, size_bytes=1, complete=False))
ENDED_WELL = pod_record(0, phase="Succeeded", exit_code=0, outcome=SUCCESS)
COMPLETE = child_record(condition=("Complete", ""))

STATES: dict[str, tuple[Observed, Trouble | None, str, str, str]] = {
    # observed, trouble -> state, one condition, its fact
    "new": (seen(), None, "Pending", "Scheduled", "Unknown NoPod"),
    "job refused": (seen(), Trouble("JobRejected", "exceeded quota"), "JobRejected", "Scheduled", "False JobRejected"),
    "name taken": (seen(), Trouble("NameTaken", "Job rex-r0"), "NameTaken", "Scheduled", "False NameTaken"),
    "unreadable": (seen(record(more={"magic": 1})), None, "InvalidSpec", "Accepted", "False InvalidSpec"),
    "waits for a GPU": (
        seen(
            record(),
            child_record(),
            pod_record(0, phase="Pending", unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        ),
        None,
        "WaitingForGPU",
        "Scheduled",
        "False Unschedulable",
    ),
    "no node fits": (
        seen(record(), child_record(), pod_record(0, phase="Pending", unschedulable="untolerated taint")),
        None,
        "Unschedulable",
        "Scheduled",
        "False Unschedulable",
    ),
    "image": (
        seen(record(), child_record(), pod_record(0, phase="Pending", waiting=("ImagePullBackOff", "no tag"))),
        None,
        "ImagePullBackOff",
        "Scheduled",
        "False ImagePullBackOff",
    ),
    "container is made": (
        seen(record(), child_record(), pod_record(0, phase="Pending", waiting=("ContainerCreating", ""))),
        None,
        "Starting",
        "Scheduled",
        "True Bound",
    ),
    "runs, not heard yet": (
        seen(record(), child_record(), pod_record()), None, "Running", "Training", "Unknown NoReportYet",
    ),
    "fetches": (
        seen(record(), child_record(), pod_record(), progress=FETCHING), None, "Fetching", "Training", "False Fetching",
    ),
    "trains": (
        seen(record(), child_record(), pod_record(), progress=TRAINING), None, "Training", "Training", "True Training",
    ),
    "report of an earlier pod": (
        seen(record(), child_record(), pod_record(1), progress=TRAINING),
        None,
        "Running",
        "Training",
        "Unknown NoReportYet",
    ),
    "between attempts": (
        seen(record(), child_record(), pod_record(0, phase="Failed", exit_code=75)),
        None,
        "Retrying",
        "DataPurged",
        "False NotConfirmed",
    ),
    "pod done, Job not yet": (
        seen(record(), child_record(), ENDED_WELL),
        None,
        "Completing",
        "Finished",
        "False NotFinished",
    ),
    "pod failed for good, Job not yet": (
        seen(record(), child_record(), pod_record(0, phase="Failed", exit_code=70)),
        None,
        "Failing",
        "Finished",
        "False NotFinished",
    ),
    "suspending": (
        seen(record(policy={"suspend": True}), child_record(), pod_record()),
        None,
        "Suspending",
        "Suspended",
        "False Suspending",
    ),
    "suspended": (seen(record(policy={"suspend": True})), None, "Suspended", "Suspended", "True Suspended"),
    "succeeded": (seen(record(), COMPLETE, ENDED_WELL), None, "Succeeded", "ResultUploaded", "True ManifestStands"),
    "succeeded, message lost": (
        seen(record(), COMPLETE, pod_record(0, phase="Succeeded", exit_code=0)),
        None,
        "Succeeded",
        "ResultUploaded",
        "True TerminationMessageLost",
    ),
    "failed": (
        seen(record(), child_record(condition=("Failed", "BackoffLimitExceeded"))),
        None,
        "Failed: BackoffLimitExceeded",
        "ResultUploaded",
        "False NothingPublished",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
def test_state_and_condition(case: str) -> None:
    observed, trouble, state, type_, fact = STATES[case]
    status = status_of(observed, trouble)
    assert status.state == state
    assert facts(status)[type_] == fact
    assert status.message


def test_success_carries_result_purge_and_last_step() -> None:
    status = status_of(seen(record(), COMPLETE, ENDED_WELL))
    assert status.result == SUCCESS.result
    assert status.purge == SUCCESS.purge
    assert status.display.step == "800/800"
    assert status.completion_time == at(0)
    assert facts(status) | {"DataPurged": "True ScratchEmpty", "Finished": "True Completed"} == facts(status)
    assert facts(status)["Checkpointed"] == "False ResultStands"


def test_columns_while_training() -> None:
    display = status_of(seen(record(), child_record(), pod_record(), progress=TRAINING)).display
    assert (display.step, display.loss, display.eta) == ("450/800", "0.1234", "14m")


def _finished() -> Observed:
    first = status_of(seen(record(), COMPLETE, ENDED_WELL))
    return seen(record(status=first.to_dict()), COMPLETE, ENDED_WELL)


def test_what_is_final_never_changes() -> None:
    done = _finished().job.status
    assert done is not None
    contrary = seen(
        record(status=done.to_dict(), generation=2, policy={"suspend": True}),
        child_record(condition=("Failed", "BackoffLimitExceeded")),
        pod_record(1, phase="Failed", exit_code=1, outcome=Outcome(reason="InternalError")),
    )
    after = build(contrary, decide(contrary, NOW), None, NOW + timedelta(days=1))
    for type_ in (ConditionType.SUCCEEDED, ConditionType.FINISHED):
        assert after.condition(type_) == done.condition(type_)
    assert (after.result, after.completion_time, after.state) == (done.result, done.completion_time, "Succeeded")


def test_r16_a_finished_job_is_not_written_again() -> None:
    observed = _finished()
    later = build(observed, decide(observed, NOW), None, NOW + timedelta(hours=3))
    assert changes(observed.status.to_dict(), later.to_dict()) == {}


@pytest.mark.parametrize(
    "things", [(), (child_record(),), (child_record(), pod_record()), (child_record(), pod_record(phase="Pending"))]
)
def test_r16_nothing_new_is_worth_no_write(things: tuple[Any, ...]) -> None:
    first = status_of(seen(record(), *things))
    observed = seen(record(status=first.to_dict()), *things)
    later = build(observed, decide(observed, NOW), None, NOW + timedelta(minutes=5))
    assert changes(first.to_dict(), later.to_dict()) == {}


def test_transition_time_moves_with_the_status_alone() -> None:
    first = status_of(seen(record(), child_record(), pod_record(), progress=FETCHING))
    observed = seen(record(status=first.to_dict()), child_record(), pod_record(), progress=TRAINING)
    later = build(observed, decide(observed, NOW), None, NOW + timedelta(seconds=9))
    moved = [c.type for c in later.conditions if c.last_transition_time == at(9)]
    assert moved == ["Training"]


@pytest.mark.parametrize(
    ("pods", "fact"),
    [
        ([pod_record()], "False InUse"),
        ([ENDED_WELL], "True ScratchEmpty"),
        ([pod_record(0, phase="Failed", exit_code=137)], "False NotConfirmed"),
        (
            [pod_record(0, phase="Failed", exit_code=75, outcome=NOT_EMPTIED)],
            "False NotConfirmed",
        ),
        ([pod_record(0, phase="Failed", exit_code=137, created=-90), ENDED_WELL], "False NotConfirmed"),
    ],
)  # fmt: skip
def test_data_is_purged_only_with_evidence_from_every_pod(pods: list[Any], fact: str) -> None:
    assert facts(status_of(seen(record(), child_record(), *pods)))["DataPurged"] == fact


def test_data_is_purged_when_every_pod_and_its_volume_are_gone() -> None:
    observed = seen(record(status={"attempts": {"started": 2}}))
    assert facts(status_of(observed))["DataPurged"] == "True PodsGone"


def test_a_log_tail_in_the_termination_message_is_not_repeated() -> None:
    words = "Traceback: s3://photos/anna/passport.jpg"
    pod = pod_record(0, phase="Failed", exit_code=1, message=words)
    status = status_of(seen(record(), child_record(condition=("Failed", "BackoffLimitExceeded")), pod))
    assert "passport" not in str(status.to_dict())


def test_checkpoints_never_go_back() -> None:
    first = status_of(seen(record(), child_record(), pod_record(), checkpoint_step=300))
    assert first.checkpoint is not None
    observed = seen(record(status=first.to_dict()), child_record(), pod_record(), checkpoint_step=200)
    assert status_of(observed).checkpoint == first.checkpoint
    assert facts(first)["Checkpointed"] == "True CheckpointSaved"


def test_failure_says_what_to_do() -> None:
    pod = pod_record(0, phase="Failed", exit_code=71)
    status = status_of(seen(record(), child_record(condition=("Failed", "PodFailurePolicy")), pod))
    assert status.message == f"{reasons.STORAGE_NOT_FOUND.meaning} {reasons.STORAGE_NOT_FOUND.advice}"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (850, "14m"), (3600, "1h0m"), (11_000, "3h3m")]
)
def test_duration(seconds: int, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"a": 1}),
        ({"a": 1}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": [1]}),
        ({"a": [1, 2]}, {"a": [2]}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2, "d": 3}}, "e": {}}),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_a_patch_turns_old_into_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merged(old, changes(old, new)) == new
