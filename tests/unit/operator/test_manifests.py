"""The Job of one run, looked at as the API server, the kubelet and the job will."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dreambooth_api import names, reasons
from dreambooth_api.reasons import Retry
from dreambooth_api.run import Run
from dreambooth_operator.manifests import child_job
from dreambooth_operator.settings import Settings
from tests.unit.operator.builders import SPEC, record

SETTINGS = Settings(
    job_image="registry/job:1", storage_endpoint="https://s3.local", storage_credentials_secret="s3",
    progress_url="http://operator:8081/",
)  # fmt: skip


def job(settings: Settings = SETTINGS, **more: Any) -> Any:
    return child_job(record(more=more), 2, settings)


def pod(settings: Settings = SETTINGS, **more: Any) -> Any:
    return job(settings, **more)["spec"]["template"]["spec"]


def env(settings: Settings = SETTINGS, **more: Any) -> dict[str, Any]:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in pod(settings, **more)["containers"][0]["env"]}


def test_r11_same_input_same_job() -> None:
    assert json.dumps(job()) == json.dumps(job())
    assert job()["metadata"]["name"] == "rex-r2"


def test_the_longest_name_fits_a_label() -> None:
    name = "a" * names.MAX_NAME_LENGTH
    child = child_job(record(name=name), 999_999, SETTINGS)["metadata"]["name"]
    assert len(child + "-abcde") <= 63


def test_the_owner_is_the_controller_by_uid() -> None:
    (owner,) = job()["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["kind"]) == ("job-uid", True, "TrainingJob")


def test_interruptions_are_free_permanent_failures_final_and_the_rest_counts() -> None:
    disrupted, stopped, final = job()["spec"]["podFailurePolicy"]["rules"]
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert (disrupted["action"], stopped["action"], final["action"]) == ("Ignore", "Ignore", "FailJob")
    assert stopped["onExitCodes"]["values"] == [143]
    named = set(final["onExitCodes"]["values"])
    assert named == set(reasons.exit_codes(Retry.NEVER))
    assert not named & set(reasons.exit_codes(Retry.COUNTED))


def test_never_two_pods_at_once() -> None:
    spec = job()["spec"]
    assert (spec["completions"], spec["parallelism"], spec["podReplacementPolicy"]) == (1, 1, "Failed")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_the_job_reads_back_what_the_user_wrote_with_storage_filled_in() -> None:
    run = Run.model_validate_json(env()["DREAMBOOTH_RUN"].replace("$$", "$"))
    assert (run.name, run.namespace, run.uid, run.run_index, run.generation) == ("rex", "team", "job-uid", 2, 1)
    assert run.spec.storage.endpoint == "https://s3.local"
    assert run.spec.storage.credentials_secret_ref is not None
    assert run.spec.output.uri == SPEC["output"]["uri"]


def test_the_users_storage_wins() -> None:
    own = {"endpoint": "https://mine", "credentialsSecretRef": {"name": "own"}}
    run = Run.model_validate_json(env(storage=own)["DREAMBOOTH_RUN"])
    assert run.spec.storage.endpoint == "https://mine"
    assert {"name": "credentials", "secret": {"secretName": "own", "defaultMode": 0o440}} in pod(storage=own)["volumes"]


def test_a_prompt_that_looks_like_a_variable_stays_as_it_is() -> None:
    text = env(samples={"prompts": ["a $(HOME) for $$5"]})["DREAMBOOTH_RUN"]
    assert "a $$(HOME) for $$$$5" in text  # the kubelet halves every pair


def test_without_credentials_or_progress_nothing_points_there() -> None:
    bare = Settings()
    assert not {"DREAMBOOTH_CREDENTIALS", "DREAMBOOTH_PROGRESS_URL", "DREAMBOOTH_PROGRESS_TOKEN"} & set(env(bare))
    assert {v["name"] for v in pod(bare)["volumes"]} == {"scratch", "shared-memory"}


def test_the_nodes_own_role_is_no_way_round_the_given_credentials() -> None:
    assert env()["AWS_EC2_METADATA_DISABLED"] == "true"
    assert "AWS_EC2_METADATA_DISABLED" not in env(Settings())


def test_pull_secrets_of_the_user_and_of_the_operator_come_together_and_once() -> None:
    settings = Settings(job_pull_secrets=("site", "own"), job_pull_policy="Always")
    spec = pod(settings, runtime={"imagePullSecrets": [{"name": "own"}]})
    assert spec["imagePullSecrets"] == [{"name": "own"}, {"name": "site"}]
    assert spec["containers"][0]["imagePullPolicy"] == "Always"
    assert "imagePullSecrets" not in pod(Settings())


def test_scratch_in_memory_stays_within_the_memory_that_was_asked_for() -> None:
    """Its pages count against the container's memory limit; nothing is reserved on the node's disk for it."""
    spec = pod(runtime={"resources": {"memory": "24Gi"}, "scratch": {"sizeLimit": "8Gi", "medium": "Memory"}})
    assert spec["volumes"][0]["emptyDir"] == {"sizeLimit": "8Gi", "medium": "Memory"}
    resources = spec["containers"][0]["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "24Gi"
    assert "ephemeral-storage" not in resources["requests"]


def test_every_mount_has_its_volume_and_every_path_in_the_environment_its_mount() -> None:
    spec = pod()
    mounts = {m["mountPath"]: m["name"] for m in spec["containers"][0]["volumeMounts"]}
    assert set(mounts.values()) == {v["name"] for v in spec["volumes"]}
    for variable in ("DREAMBOOTH_SCRATCH", "DREAMBOOTH_CREDENTIALS", "DREAMBOOTH_PROGRESS_TOKEN"):
        assert any(env()[variable].startswith(path) for path in mounts), variable
    assert env()["DREAMBOOTH_PROGRESS_URL"] == "http://operator:8081/v1/progress"


def test_the_progress_token_is_bound_to_one_audience() -> None:
    (volume,) = (v for v in pod()["volumes"] if v["name"] == "progress")
    token = volume["projected"]["sources"][0]["serviceAccountToken"]
    assert token == {"audience": "dreambooth.dev/progress", "expirationSeconds": 3600, "path": "token"}


def test_the_pod_has_no_kubernetes_rights_and_runs_restricted() -> None:
    spec = pod()
    container = spec["containers"][0]["securityContext"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert not any("hostPath" in volume for volume in spec["volumes"])


@pytest.mark.parametrize("count", [0, 1])
def test_a_gpu_is_asked_for_and_its_taint_tolerated_only_when_wanted(count: int) -> None:
    spec = pod(runtime={"gpu": {"resource": "amd.com/gpu", "count": count}})
    assert spec["containers"][0]["resources"]["limits"].get("amd.com/gpu") == ("1" if count else None)
    assert [t["key"] for t in spec["tolerations"]] == (["amd.com/gpu"] if count else [])


def test_the_users_placement_reaches_the_pod() -> None:
    spec = pod(
        runtime={
            "image": "own:2",
            "imagePullSecrets": [{"name": "pull"}],
            "nodeSelector": {"gpu": "a100"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "serviceAccountName": "bucket-reader",
            "priorityClassName": "low",
            "runtimeClassName": "nvidia",
            "scratch": {"sizeLimit": "5Gi", "medium": "Memory"},
        }
    )
    assert spec["containers"][0]["image"] == "own:2"
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert spec["nodeSelector"] == {"gpu": "a100"}
    assert spec["tolerations"][-1] == {"key": "spot", "operator": "Exists"}
    assert (spec["serviceAccountName"], spec["priorityClassName"]) == ("bucket-reader", "low")
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["volumes"][0]["emptyDir"] == {"sizeLimit": "5Gi", "medium": "Memory"}
    assert "ephemeral-storage" not in spec["containers"][0]["resources"]["requests"]
