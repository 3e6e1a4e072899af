"""What the processes tell each other and the user: Progress and Outcome leave the pod, TrainingJobStatus is shown."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from dreambooth_api.base import Report
from dreambooth_api.names import TERMINATION_MESSAGE_LIMIT_BYTES

Text = Annotated[str, StringConstraints(max_length=1024)]
Short = Annotated[str, StringConstraints(max_length=128)]
Sha256 = Annotated[str, StringConstraints(max_length=64)]


class Stage(StrEnum):
    """The pipeline's stages, in order."""

    FETCH = "fetch"
    PREPARE = "prepare"
    LOAD = "load"
    TRAIN = "train"
    SAMPLE = "sample"
    EXPORT = "export"
    PUBLISH = "publish"
    CLEANUP = "cleanup"


class Progress(Report):
    """Pushed by the pod while it works; losing one loses nothing but the live view."""

    sequence: int
    """Rises within one pod; an older record never replaces a newer one."""
    stage: Stage
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    """Moving average of the subjects' loss."""
    steps_per_second: float | None = None
    eta_seconds: int | None = None
    checkpoint_step: int | None = None
    """Step of the newest resume checkpoint that stands in the bucket."""


class Artifact(Report):
    """One published file."""

    path: Text
    """Relative to the output prefix."""
    size_bytes: int
    sha256: Sha256


class Result(Report):
    """The published result."""

    uri: Text
    """URI of the manifest."""
    manifest_sha256: Sha256
    artifacts: Annotated[tuple[Artifact, ...], Field(max_length=20)] = ()
    """The files a person looks for first; the manifest lists all."""


class Purge(Report):
    """What the job removed from its scratch folder when it ended."""

    files: int
    size_bytes: int
    complete: bool
    """True when the folder was seen empty afterwards."""


class Outcome(Report):
    """The pod's last words, in its termination message: how the attempt ended."""

    reason: Short
    message: Text = ""
    step: int = 0
    total_steps: int = 0
    resumed_from_step: int | None = None
    checkpoint_step: int | None = None
    result: Result | None = None
    purge: Purge | None = None

    def to_termination_message(self) -> str:
        """JSON of at most 4096 bytes: the list of artifacts, then the message, is cut to fit."""
        kept: Outcome = self
        while len(text := kept.model_dump_json(by_alias=True, exclude_none=True).encode()) > (
            TERMINATION_MESSAGE_LIMIT_BYTES
        ):
            if kept.result and kept.result.artifacts:
                kept = kept.model_copy(
                    update={"result": kept.result.model_copy(update={"artifacts": kept.result.artifacts[:-1]})}
                )
            else:
                kept = kept.model_copy(update={"message": kept.message[: len(kept.message) * 3 // 4]})
        return text.decode()


class ConditionType(StrEnum):
    ACCEPTED = "Accepted"
    SCHEDULED = "Scheduled"
    TRAINING = "Training"
    CHECKPOINTED = "Checkpointed"
    SUSPENDED = "Suspended"
    RESULT_UPLOADED = "ResultUploaded"
    DATA_PURGED = "DataPurged"
    SUCCEEDED = "Succeeded"
    FINISHED = "Finished"


class Condition(Report):
    """As metav1.Condition."""

    type: Short
    status: Annotated[str, StringConstraints(pattern=r"^(True|False|Unknown)$", max_length=7)]
    observed_generation: int = 0
    last_transition_time: Short
    reason: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=128)]
    message: Text = ""


class Attempt(Report):
    """One pod."""

    pod_uid: Short
    run_index: int
    pod: Annotated[str, StringConstraints(max_length=253)] = ""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    start_time: Short | None = None
    end_time: Short | None = None
    exit_code: int | None = None
    reason: Short | None = None
    step: int | None = None


class Attempts(Report):
    """How many pods there were, and how the ended ones ended."""

    started: int = 0
    failed: int = 0
    interrupted: int = 0


class ProgressStatus(Report):
    """The newest Progress, with who saw it when."""

    pod_uid: Short
    sequence: int
    observed_time: Short
    stage: Short
    step: int = 0
    total_steps: int = 0
    percentage: int = 0
    loss: Short | None = None
    """A decimal string."""
    steps_per_second: Short | None = None
    """A decimal string."""
    eta_seconds: int | None = None


class CheckpointStatus(Report):
    """The newest resume checkpoint in the bucket."""

    step: int
    observed_time: Short


class Display(Report):
    """What `kubectl get` prints; strings, because columns cannot compute."""

    step: Short = ""
    loss: Short = ""
    eta: Short = ""


class TrainingJobStatus(Report):
    """Written by the operator alone, and rebuildable from what it observes."""

    observed_generation: int = 0
    state: Short = ""
    """One word or two for people, e.g. Training or Failed: OutOfMemory. The conditions are the contract."""
    message: Text = ""
    """Why it is in this state, and what to do."""
    run_index: int = 0
    """Rises with every resume; each run has one child Job."""
    start_time: Short | None = None
    completion_time: Short | None = None
    active_seconds: int = 0
    """Running time of the ended attempts."""
    attempts: Attempts = Attempts()
    last_attempts: Annotated[tuple[Attempt, ...], Field(max_length=5)] = ()
    progress: ProgressStatus | None = None
    checkpoint: CheckpointStatus | None = None
    result: Result | None = None
    purge: Purge | None = None
    display: Display = Display()
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = ()

    def condition(self, type_: ConditionType) -> Condition | None:
        return next((c for c in self.conditions if c.type == type_), None)

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
