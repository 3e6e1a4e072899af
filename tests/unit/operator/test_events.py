from __future__ import annotations

from typing import Any

import pytest

from dreambooth_api import reasons
from dreambooth_api.status import Outcome, TrainingJobStatus
from dreambooth_operator.decide import decide
from dreambooth_operator.events import event, happenings
from dreambooth_operator.observe import Observed
from dreambooth_operator.status import build
from tests.unit.operator.builders import NOW, SUCCESS, child_record, pod_record, record, seen


def told(observed: Observed) -> list[str]:
    plan = decide(observed, NOW)
    new = build(observed, plan, plan.trouble, NOW)
    return [happening.reason for happening in happenings(observed.status, new)]


ENDED = pod_record(0, phase="Succeeded", exit_code=0, outcome=SUCCESS)


@pytest.mark.parametrize(
    ("observed", "reasons_told"),
    [
        (seen(), []),
        (seen(record(), child_record()), ["Started"]),
        (seen(record(), child_record(), pod_record(0, phase="Failed", exit_code=75)), ["Started", "AttemptFailed"]),
        (seen(record(), child_record(), pod_record(0, phase="Failed", exit_code=143)), ["Started", "Interrupted"]),
        (seen(record(), child_record(condition=("Complete", "")), ENDED), ["Started", "Completed"]),
        (seen(record(policy={"suspend": True})), ["Suspended"]),
        (seen(record(more={"magic": 1})), ["InvalidSpec"]),
        (
            seen(record(), child_record(), pod_record(0, phase="Pending", waiting=("ErrImagePull", "no tag"))),
            ["Started", "ErrImagePull"],
        ),
    ],
)
def test_what_is_told(observed: Observed, reasons_told: list[str]) -> None:
    assert told(observed) == reasons_told


def test_nothing_new_nothing_told() -> None:
    observed = seen(record(), child_record(), pod_record())
    plan = decide(observed, NOW)
    status = build(observed, plan, None, NOW)
    assert list(happenings(status, status)) == []


def test_the_jobs_own_words_stay_out_of_events() -> None:
    pod = pod_record(0, phase="Failed", exit_code=66, outcome=Outcome(reason="ImagesUnusable", message="anna.jpg"))
    observed = seen(record(), child_record(condition=("Failed", "PodFailurePolicy")), pod)
    plan = decide(observed, NOW)
    new = build(observed, plan, None, NOW)
    notes = [happening.note for happening in happenings(TrainingJobStatus(), new)]
    assert not any("anna" in note for note in notes)
    assert any(reasons.IMAGES_UNUSABLE.advice in note for note in notes)


def test_the_same_happening_has_the_same_name_and_another_run_another() -> None:
    def name(**changed: Any) -> str:
        observed = seen(record(uid=changed.get("uid", "job-uid")), child_record())
        (happening,) = happenings(TrainingJobStatus(), build(observed, decide(observed, NOW), None, NOW))
        return str(event(observed.job, happening, NOW, changed.get("instance", "a"))["metadata"]["name"])

    assert name() == name(instance="b")
    assert name() != name(uid="a-new-rex")
