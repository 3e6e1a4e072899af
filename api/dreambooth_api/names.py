"""Names that more than one process must agree on: API group, labels, environment, files, bucket layout."""

from __future__ import annotations

from typing import Final

GROUP: Final = "dreambooth.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "TrainingJob"
PLURAL: Final = "trainingjobs"
SINGULAR: Final = "trainingjob"
SHORT_NAME: Final = "dbj"
CATEGORY: Final = "training"

# <name>-r<run index> and the pod's suffix must fit a label of 63 characters.
MAX_NAME_LENGTH: Final = 48

LABEL_JOB: Final = f"{GROUP}/job"
LABEL_JOB_UID: Final = f"{GROUP}/job-uid"
LABEL_RUN: Final = f"{GROUP}/run"
ANNOTATION_PROGRESS_URL: Final = f"{GROUP}/progress-url"  # on the operator's Lease: where its holder takes progress
CONTAINER: Final = "trainer"
COMMAND: Final = "dreambooth-job"

PROGRESS_AUDIENCE: Final = f"{GROUP}/progress"
PROGRESS_PATH: Final = "/v1/progress"
PROGRESS_BODY_LIMIT_BYTES: Final = 64 * 1024
TERMINATION_MESSAGE_LIMIT_BYTES: Final = 4096  # the kubelet cuts there

# The training pod's environment; every path reaches the job through it, none is hard-coded there.
ENV_RUN: Final = "DREAMBOOTH_RUN"
ENV_POD_UID: Final = "DREAMBOOTH_POD_UID"
ENV_NODE_NAME: Final = "DREAMBOOTH_NODE_NAME"
ENV_SCRATCH: Final = "DREAMBOOTH_SCRATCH"
ENV_CREDENTIALS: Final = "DREAMBOOTH_CREDENTIALS"
ENV_TERMINATION_MESSAGE: Final = "DREAMBOOTH_TERMINATION_MESSAGE"
ENV_PROGRESS_URL: Final = "DREAMBOOTH_PROGRESS_URL"
ENV_PROGRESS_TOKEN: Final = "DREAMBOOTH_PROGRESS_TOKEN"
ENV_LOG_FORMAT: Final = "DREAMBOOTH_LOG_FORMAT"

PATH_SCRATCH: Final = "/scratch"
PATH_CREDENTIALS: Final = "/var/run/dreambooth/credentials"
PATH_PROGRESS: Final = "/var/run/dreambooth/progress"
PATH_TERMINATION_MESSAGE: Final = "/dev/termination-log"

MANIFEST_FILE: Final = "manifest.json"
CHECKPOINTS_FOLDER: Final = ".checkpoints"


def child_name(job_name: str, run_index: int) -> str:
    """The batch/v1 Job of one run."""
    return f"{job_name}-r{run_index}"


def attempt_name(job_name: str, job_uid: str, run_index: int, pod_uid: str) -> str:
    """The folder below the output prefix that one pod, and no other, writes to."""
    return f"{job_name}-{job_uid[:8]}-r{run_index}-{pod_uid[:8]}"
