"""What a real API server says to good and wrong manifests: OpenAPI and CEL alone, no webhook."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster.cluster import Cluster
from devcluster.kube import ApiError
from dreambooth_api.names import API_VERSION, KIND, MAX_NAME_LENGTH, PLURAL
from dreambooth_api.spec import IMMUTABLE_SECTIONS
from tests.wrong_manifests import WRONG, Wrong, good_spec

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
OTHER = {
    "baseModel": {"sha256": "0" * 64},
    "subjects": [],
    "output": {"overwritePolicy": "Replace"},
    "method": {"lora": {"rank": 8}},
    "training": {"steps": 7},
    "samples": {"everySteps": 7},
    "checkpoints": {"keepLast": 7},
    "storage": {"region": "elsewhere"},
    "runtime": {"image": "other"},
}


def path(namespace: str, name: str = "") -> str:
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}" + (f"/{name}" if name else "")


def manifest(spec: dict[str, Any], name: str = "rex") -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_is_accepted(cluster: Cluster, namespace: str, example: Path) -> None:
    cluster.kube.create(path(namespace), yaml.safe_load(example.read_text()), fieldValidation="Strict")


def test_every_wrong_manifest_is_refused_with_the_field_named(cluster: Cluster, namespace: str) -> None:
    def refusal(wrong: Wrong) -> str:
        with pytest.raises(ApiError) as caught:
            cluster.kube.create(path(namespace), manifest(wrong.spec()), fieldValidation="Strict", dryRun="All")
        return str(caught.value)

    unnamed = {wrong.name: said for wrong in WRONG if wrong.names not in (said := refusal(wrong))}
    assert unnamed == {}


@pytest.mark.parametrize("name", ["x" * (MAX_NAME_LENGTH + 1), "dotted.name"])
def test_name_that_no_pod_could_have_is_refused(cluster: Cluster, namespace: str, name: str) -> None:
    with pytest.raises(ApiError, match="pods are named after it"):
        cluster.kube.create(path(namespace), manifest(good_spec(), name))


@pytest.mark.parametrize("section", IMMUTABLE_SECTIONS)
def test_section_cannot_be_changed_later(cluster: Cluster, namespace: str, section: str) -> None:
    cluster.kube.create(path(namespace), manifest(good_spec()))
    changed = copy.deepcopy(OTHER[section]) or [
        *good_spec()["subjects"],
        {**good_spec()["subjects"][0], "token": "zwx"},
    ]
    with pytest.raises(ApiError, match=f"{section} cannot be changed"):
        cluster.kube.patch(path(namespace, "rex"), {"spec": {section: changed}})


def test_run_policy_may_change_at_any_time(cluster: Cluster, namespace: str) -> None:
    cluster.kube.create(path(namespace), manifest(good_spec()))
    patched = cluster.kube.patch(path(namespace, "rex"), {"spec": {"runPolicy": {"suspend": True, "backoffLimit": 9}}})
    assert patched["spec"]["runPolicy"]["suspend"] is True
    assert patched["spec"]["runPolicy"]["maxPreemptions"] == 10


def test_defaults_are_filled_in_and_what_the_job_resolves_stays_out(cluster: Cluster, namespace: str) -> None:
    spec = cluster.kube.create(path(namespace), manifest(good_spec()))["spec"]
    assert spec["method"]["lora"]["rank"] == 16
    assert spec["subjects"][0]["images"]["captions"] == "auto"
    assert "steps" not in spec["training"]
