"""TrainingJob -> the batch/v1 Job of one run, as a plain dict. Pure: same input, same Job.

The Job is written once and never touched again, since other controllers (queues, autoscalers) may edit it. Its pod
runs unchanged in a namespace with the `restricted` Pod Security Standard.
"""

from __future__ import annotations

from typing import Any

from dreambooth_api import names, reasons
from dreambooth_api.reasons import Retry
from dreambooth_api.run import Run
from dreambooth_api.spec import Runtime, ScratchMedium, SecretRef, Storage, TrainingJobSpec
from dreambooth_operator.cluster import JOBS, TRAINING_JOBS, Json
from dreambooth_operator.observe import TrainingJob
from dreambooth_operator.settings import Settings

USER = 65532  # the image's "nonroot"
TERMINATION_GRACE_SECONDS = 120  # what spot instances of the large clouds announce; the job saves a checkpoint in it
PROGRESS_TOKEN_SECONDS = 3600
SHARED_MEMORY = "/dev/shm"  # 64 MB by default, which data loaders overflow (pytorch#16979)


def child_job(job: TrainingJob, run_index: int, settings: Settings) -> Json:
    assert job.spec is not None
    spec = with_defaults(job.spec, settings)
    namespace, name = job.key
    labels = {
        "app.kubernetes.io/name": "dreambooth-job",
        "app.kubernetes.io/managed-by": "dreambooth-operator",
        names.LABEL_JOB: name,
        names.LABEL_JOB_UID: job.uid,
        names.LABEL_RUN: str(run_index),
    }
    owner = {
        "apiVersion": TRAINING_JOBS.api_version,
        "kind": TRAINING_JOBS.kind,
        "name": name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": {
            "name": names.child_name(name, run_index),
            "namespace": namespace,
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": spec.run_policy.backoff_limit,
            "podReplacementPolicy": "Failed",  # never two writers
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {"metadata": {"labels": labels}, "spec": _pod(job, spec, run_index, settings)},
        },
    }


def with_defaults(spec: TrainingJobSpec, settings: Settings) -> TrainingJobSpec:
    """The spec with the operator's storage defaults where the user left them out."""
    secret, storage = settings.storage_credentials_secret, spec.storage
    filled = Storage(
        endpoint=storage.endpoint or settings.storage_endpoint,
        region=storage.region or settings.storage_region,
        credentials_secret_ref=storage.credentials_secret_ref or (SecretRef(name=secret) if secret else None),
    )
    return spec.model_copy(update={"storage": filled})


def _failure_rules() -> list[Json]:
    """In order, first match: interruptions are free, permanent failures end the Job, the rest counts."""

    def on_exit(action: str, codes: list[int]) -> Json:
        on = {"containerName": names.CONTAINER, "operator": "In", "values": codes}
        return {"action": action, "onExitCodes": on}

    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit("Ignore", reasons.exit_codes(Retry.FREE)),
        on_exit("FailJob", reasons.exit_codes(Retry.NEVER)),
    ]


def _pod(job: TrainingJob, spec: TrainingJobSpec, run_index: int, settings: Settings) -> Json:
    runtime = spec.runtime
    volumes, mounts = _volumes(spec, settings)
    pod: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": volumes,
        "containers": [
            {
                "name": names.CONTAINER,
                "image": runtime.image or settings.job_image,
                "imagePullPolicy": settings.job_pull_policy,
                "command": list(settings.job_command),
                "env": _environment(job, spec, run_index, settings),
                "resources": _resources(runtime),
                "volumeMounts": mounts,
                "terminationMessagePath": names.PATH_TERMINATION_MESSAGE,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "tolerations": _tolerations(runtime),
    }
    optional: Json = {
        "nodeSelector": runtime.node_selector,
        "serviceAccountName": runtime.service_account_name,
        "priorityClassName": runtime.priority_class_name,
        "runtimeClassName": runtime.runtime_class_name,
        "imagePullSecrets": [{"name": name} for name in _pull_secrets(runtime, settings)],
    }
    return pod | {key: value for key, value in optional.items() if value}


def _pull_secrets(runtime: Runtime, settings: Settings) -> list[str]:
    """The user's and the operator's, each once."""
    return list(dict.fromkeys([*(secret.name for secret in runtime.image_pull_secrets), *settings.job_pull_secrets]))


def _environment(job: TrainingJob, spec: TrainingJobSpec, run_index: int, settings: Settings) -> list[Json]:
    namespace, name = job.key
    run = Run(name=name, namespace=namespace, uid=job.uid, run_index=run_index, generation=job.generation, spec=spec)
    values: dict[str, str] = {
        names.ENV_RUN: run.model_dump_json(by_alias=True, exclude_none=True),
        names.ENV_SCRATCH: names.PATH_SCRATCH,
        names.ENV_TERMINATION_MESSAGE: names.PATH_TERMINATION_MESSAGE,
    }
    if spec.storage.credentials_secret_ref:
        values[names.ENV_CREDENTIALS] = names.PATH_CREDENTIALS
        values["AWS_EC2_METADATA_DISABLED"] = "true"  # no library falls back to the node's own role
    if settings.progress_url:
        values[names.ENV_PROGRESS_URL] = settings.progress_url.rstrip("/") + names.PROGRESS_PATH
        values[names.ENV_PROGRESS_TOKEN] = f"{names.PATH_PROGRESS}/token"
    downward = {names.ENV_POD_UID: "metadata.uid", names.ENV_NODE_NAME: "spec.nodeName"}
    # The kubelet expands $(NAME) and halves $$; doubled, a prompt's words stay as they are.
    env: list[Json] = [{"name": key, "value": value.replace("$", "$$")} for key, value in values.items()]
    return env + [{"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in downward.items()]


def _volumes(spec: TrainingJobSpec, settings: Settings) -> tuple[list[Json], list[Json]]:
    scratch = spec.runtime.scratch
    empty: dict[str, Any] = {"sizeLimit": scratch.size_limit}
    if scratch.medium is ScratchMedium.MEMORY:
        empty["medium"] = "Memory"
    volumes: list[Json] = [
        {"name": "scratch", "emptyDir": empty},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
    ]
    mounts: list[Json] = [
        {"name": "scratch", "mountPath": names.PATH_SCRATCH},
        {"name": "shared-memory", "mountPath": SHARED_MEMORY},
    ]
    if secret := spec.storage.credentials_secret_ref:
        volumes.append({"name": "credentials", "secret": {"secretName": secret.name, "defaultMode": 0o440}})
        mounts.append({"name": "credentials", "mountPath": names.PATH_CREDENTIALS, "readOnly": True})
    if settings.progress_url:
        token = {
            "audience": names.PROGRESS_AUDIENCE,
            "expirationSeconds": PROGRESS_TOKEN_SECONDS,
            "path": "token",
        }
        volumes.append({"name": "progress", "projected": {"sources": [{"serviceAccountToken": token}]}})
        mounts.append({"name": "progress", "mountPath": names.PATH_PROGRESS, "readOnly": True})
    return volumes, mounts


def _resources(runtime: Runtime) -> Json:
    """Requests, and limits where exceeding them hurts others; working data on disk is counted by the kubelet."""
    requests = {"cpu": runtime.resources.cpu, "memory": runtime.resources.memory}
    limits = {"memory": runtime.resources.memory}
    if runtime.scratch.medium is ScratchMedium.DISK:
        requests["ephemeral-storage"] = runtime.scratch.size_limit
    if runtime.gpu.count:
        limits[runtime.gpu.resource] = str(runtime.gpu.count)
    return {"requests": requests, "limits": limits}


def _tolerations(runtime: Runtime) -> list[Json]:
    own = [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in runtime.tolerations]
    if not runtime.gpu.count:
        return own
    return [{"key": runtime.gpu.resource, "operator": "Exists", "effect": "NoSchedule"}, *own]
