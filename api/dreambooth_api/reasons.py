"""Every way a run can end: its reason, exit code, whether another attempt can help, and what to do about it.

The job leaves with `Reason.exit_code`; the operator turns the code back with `from_exit_code` when the termination
message is lost. `docs/reasons.md` is generated from this table, and a test provokes each of its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Retry(StrEnum):
    """What the operator does when an attempt ends this way."""

    NEVER = "never"  # the same attempt would end the same way: the TrainingJob fails at once
    COUNTED = "counted"  # another attempt may help; it counts against runPolicy.backoffLimit
    FREE = "free"  # nobody's fault; it counts against runPolicy.maxPreemptions only


@dataclass(frozen=True, slots=True)
class Reason:
    name: str
    exit_code: int | None  # None: decided by the operator, no process ever leaves with it
    retry: Retry
    meaning: str
    advice: str


def _job(name: str, exit_code: int, retry: Retry, meaning: str, advice: str) -> Reason:
    return Reason(name, exit_code, retry, meaning, advice)


def _operator(name: str, meaning: str, advice: str) -> Reason:
    return Reason(name, None, Retry.NEVER, meaning, advice)


COMPLETED = _job("Completed", 0, Retry.NEVER, "The result and its manifest stand in the bucket.", "Use it.")
INTERNAL_ERROR = _job(
    "InternalError", 1, Retry.COUNTED, "The job met an error it has no name for.",
    "Read the pod's log; if another attempt ends the same way, report it with that log.",
)  # fmt: skip
INVALID_SPEC = _job(
    "InvalidSpec", 64, Retry.NEVER, "The spec does not parse, or its parts contradict each other.",
    "Correct the field that the message names and apply the TrainingJob under a new name.",
)  # fmt: skip
IMAGES_MISSING = _job(
    "ImagesMissing", 65, Retry.NEVER, "No picture was found where a subject's images should be.",
    "Check the prefix letter by letter (keys are case-sensitive) and that the pictures are uploaded.",
)  # fmt: skip
IMAGES_UNUSABLE = _job(
    "ImagesUnusable", 66, Retry.NEVER, "A picture cannot be used: damaged, too small, too large or of an unknown kind.",
    "Remove or replace the pictures that the message lists.",
)  # fmt: skip
BASE_MODEL_UNREADABLE = _job(
    "BaseModelUnreadable", 67, Retry.NEVER, "The base model's files are damaged, incomplete or not a model.",
    "Upload the base model again, or point baseModel.uri at its diffusers folder or its .safetensors file.",
)  # fmt: skip
BASE_MODEL_UNSUPPORTED = _job(
    "BaseModelUnsupported", 68, Retry.NEVER, "The base model is of a family or kind that cannot be trained here.",
    "Use a base of a supported family; inpainting and distilled models are not.",
)  # fmt: skip
PICKLE_REFUSED = _job(
    "PickleRefused", 69, Retry.NEVER, "The base model is a pickle, which can carry code.",
    "Use a .safetensors file, or set baseModel.allowPickle: true to have it read by the restricted reader.",
)  # fmt: skip
STORAGE_DENIED = _job(
    "StorageDenied", 70, Retry.NEVER, "The store refused an access.",
    "Grant the access that the message names, or point storage.credentialsSecretRef at other credentials.",
)  # fmt: skip
STORAGE_NOT_FOUND = _job(
    "StorageNotFound", 71, Retry.NEVER, "A bucket or an object does not exist.",
    "Correct the URI that the message names, or create the bucket.",
)  # fmt: skip
STORAGE_FULL = _job(
    "StorageFull", 72, Retry.NEVER, "The bucket is full or over its quota.",
    "Free space or raise the quota, then apply again: training resumes from the newest checkpoint.",
)  # fmt: skip
STORAGE_MISCONFIGURED = _job(
    "StorageMisconfigured", 73, Retry.NEVER, "The store cannot be used as it is set up: region, certificate or clock.",
    "Correct storage.endpoint, storage.region, the certificate bundle or the node's clock, as the message says.",
)  # fmt: skip
INPUT_CHANGED = _job(
    "InputChanged", 74, Retry.COUNTED, "An object changed while it was being read.",
    "Leave the inputs alone while a job reads them.",
)  # fmt: skip
STORAGE_UNAVAILABLE = _job(
    "StorageUnavailable", 75, Retry.COUNTED, "The store did not answer for longer than the retry budget.",
    "Check the store and the network between the node and it.",
)  # fmt: skip
INPUT_CORRUPT = _job(
    "InputCorrupt", 76, Retry.NEVER, "An object's bytes do not match its checksum, again and again.",
    "Upload the object again: it is damaged where it lies.",
)  # fmt: skip
OUTPUT_EXISTS = _job(
    "OutputExists", 77, Retry.NEVER, "The output prefix already holds a finished result of another job.",
    "Choose another output.uri, or set output.overwritePolicy: Replace.",
)  # fmt: skip
SCRATCH_FULL = _job(
    "ScratchFull", 78, Retry.NEVER, "The scratch volume is too small for the pictures, the model and a checkpoint.",
    "Raise runtime.scratch.sizeLimit to at least what the message says.",
)  # fmt: skip
OUT_OF_MEMORY = _job(
    "OutOfMemory", 79, Retry.NEVER, "The accelerator's memory is too small for this training.",
    "Lower training.batchSize or training.resolution, use method.lora, or a larger GPU.",
)  # fmt: skip
DIVERGED = _job(
    "Diverged", 80, Retry.NEVER, "The loss is no longer a finite number.",
    "Lower training.learningRate, or use training.precision: fp32.",
)  # fmt: skip
RESULT_UNUSABLE = _job(
    "ResultUnusable", 81, Retry.NEVER, "The written model, read back, is not the trained one, so it was not published.",
    "Report it with the pod's log: nothing was published and the newest checkpoint is kept.",
)  # fmt: skip
DEVICE_UNAVAILABLE = _job(
    "DeviceUnavailable", 82, Retry.COUNTED, "A GPU was asked for, but the process sees none that works.",
    "Check the node's driver and device plugin, or set runtime.gpu.count: 0 to train on the CPU.",
)  # fmt: skip
MEMORY_LIMIT = _job(
    "MemoryLimitExceeded", 83, Retry.NEVER, "The container was killed for exceeding its memory limit.",
    "Raise runtime.resources.memory.",
)  # fmt: skip
KILLED = _job(
    "Killed", 137, Retry.COUNTED, "The process was killed before it could say why.",
    "Look at the node and at the memory limit in runtime.resources.",
)  # fmt: skip
INTERRUPTED = _job(
    "Interrupted", 143, Retry.FREE, "The pod was asked to stop; a checkpoint was saved when one was due.",
    "Nothing: the next attempt resumes from the newest checkpoint.",
)  # fmt: skip

BACKOFF_LIMIT = _operator(
    "BackoffLimitExceeded", "More attempts failed than runPolicy.backoffLimit allows.",
    "Read the last attempts in status.lastAttempts; correct the cause and apply again.",
)  # fmt: skip
PREEMPTION_LIMIT = _operator(
    "PreemptionLimitExceeded", "More attempts were interrupted than runPolicy.maxPreemptions allows.",
    "Use nodes that are interrupted less often, or raise runPolicy.maxPreemptions.",
)  # fmt: skip
DEADLINE = _operator(
    "DeadlineExceeded", "The job ran longer than runPolicy.activeDeadlineSeconds.",
    "Raise the deadline or lower training.steps; the newest checkpoint is kept.",
)  # fmt: skip
STARTUP_DEADLINE = _operator(
    "StartupDeadlineExceeded", "No pod ran within runPolicy.startupDeadlineSeconds.",
    "Look at the condition Scheduled: it says what the pod waits for.",
)  # fmt: skip
STALLED = _operator(
    "Stalled", "No step was made for runPolicy.progressTimeoutSeconds.",
    "Read the pod's log; a slow store or a hanging device are the usual causes.",
)  # fmt: skip
IMAGE_PULL_FAILED = _operator(
    "ImagePullFailed", "The node cannot pull the job's image.",
    "Correct runtime.image or add runtime.imagePullSecrets.",
)  # fmt: skip
JOB_REJECTED = _operator(
    "JobRejected", "The API server refuses to create the Job: quota, policy or a webhook.",
    "Change what the message names; the operator tries again by itself.",
)  # fmt: skip
NAME_TAKEN = _operator(
    "NameTaken", "A Job of the needed name exists and belongs to somebody else.",
    "Delete that Job, or apply the TrainingJob under another name.",
)  # fmt: skip

REASONS: dict[str, Reason] = {r.name: r for r in list(globals().values()) if isinstance(r, Reason)}


def from_exit_code(exit_code: int) -> Reason:
    """The reason behind a container's exit code; an unknown code is an internal error."""
    return next((r for r in REASONS.values() if r.exit_code == exit_code), INTERNAL_ERROR)


def exit_codes(retry: Retry) -> list[int]:
    """Non-zero exit codes of one retry class, ascending, for the child Job's podFailurePolicy."""
    return sorted(r.exit_code for r in REASONS.values() if r.retry is retry and r.exit_code)
