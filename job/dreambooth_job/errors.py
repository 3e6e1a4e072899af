"""The job's errors; each leaf is one reason of `dreambooth_api.reasons`, raised with a sentence for the user.

JobError
├── InvalidSpec
├── ImagesMissing, ImagesUnusable
├── BaseModelUnreadable, BaseModelUnsupported, PickleRefused
├── StorageError: StorageDenied, StorageNotFound, StorageFull, StorageMisconfigured, StorageUnavailable,
│                 InputChanged, InputCorrupt, OutputExists
├── ScratchFull, DeviceUnavailable, OutOfMemory, Diverged, ResultUnusable
└── Interrupted (SIGTERM)
"""

from __future__ import annotations

from typing import ClassVar

from dreambooth_api import reasons
from dreambooth_api.reasons import Reason


class JobError(Exception):
    """Says what, to which thing, what was expected and what to do; names a picture by index and base name only."""

    reason: ClassVar[Reason] = reasons.INTERNAL_ERROR


class InvalidSpec(JobError):
    reason = reasons.INVALID_SPEC


class ImagesMissing(JobError):
    reason = reasons.IMAGES_MISSING


class ImagesUnusable(JobError):
    reason = reasons.IMAGES_UNUSABLE


class BaseModelUnreadable(JobError):
    reason = reasons.BASE_MODEL_UNREADABLE


class BaseModelUnsupported(JobError):
    reason = reasons.BASE_MODEL_UNSUPPORTED


class PickleRefused(JobError):
    reason = reasons.PICKLE_REFUSED


class StorageError(JobError):
    """What a store answered, translated at the one door to boto3."""


class StorageDenied(StorageError):
    reason = reasons.STORAGE_DENIED


class StorageNotFound(StorageError):
    reason = reasons.STORAGE_NOT_FOUND


class StorageFull(StorageError):
    reason = reasons.STORAGE_FULL


class StorageMisconfigured(StorageError):
    reason = reasons.STORAGE_MISCONFIGURED


class StorageUnavailable(StorageError):
    reason = reasons.STORAGE_UNAVAILABLE


class InputChanged(StorageError):
    reason = reasons.INPUT_CHANGED


class InputCorrupt(StorageError):
    reason = reasons.INPUT_CORRUPT


class OutputExists(StorageError):
    reason = reasons.OUTPUT_EXISTS


class ScratchFull(JobError):
    reason = reasons.SCRATCH_FULL


class DeviceUnavailable(JobError):
    reason = reasons.DEVICE_UNAVAILABLE


class OutOfMemory(JobError):
    reason = reasons.OUT_OF_MEMORY


class Diverged(JobError):
    reason = reasons.DIVERGED


class ResultUnusable(JobError):
    reason = reasons.RESULT_UNUSABLE


class Interrupted(JobError):
    reason = reasons.INTERRUPTED
