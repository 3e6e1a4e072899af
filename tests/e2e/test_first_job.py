"""A platform engineer has installed the chart; a creator applies the first example and gets a model."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from dreambooth_api.names import CONTAINER
from tests.e2e import traces
from tests.e2e.report import Report
from tests.e2e.site import SECRET, Object, Site, eventually
from tests.e2e.trainings import BASE, ON_CPU, PICTURES, Training, condition, example, short_job


@dataclass
class First:
    training: Training
    needles: traces.Needles
    applied: float = field(default_factory=time.time)
    status: Object = field(default_factory=dict)
    running_table: str = ""
    container_started: float = 0.0
    traces_while_running: dict[str, set[str]] = field(default_factory=dict)

    def logs(self) -> list[Object]:
        return [json.loads(line) for line in self.training.logs().splitlines()]


@pytest.fixture(scope="module")
def first(site: Site, release: str) -> Iterator[First]:
    namespace = f"studio-{secrets.token_hex(3)}"
    site.add_namespace(namespace)
    site.run_python(namespace, site.job_image, "pull", "")  # the image's own files are older than what is looked for
    first = First(Training.apply(site, namespace, example()), _needles(site))
    first.training.wait_for_step(20)
    first.running_table = first.training.kubectl("get", "dbj")
    if site.node:
        first.container_started = site.node.container_started(first.training.pod()["metadata"]["uid"], CONTAINER)
    first.traces_while_running = _on_node(site, first)
    first.status = first.training.succeed()
    yield first
    site.kubectl("delete", "namespace", namespace, "--wait=false")


def test_the_result_is_complete_and_a_model(first: First) -> None:
    manifest = first.training.published()
    assert manifest
    paths = {one["path"].removeprefix(manifest["attempt"] + "/") for one in manifest["files"]}
    assert {"robot.safetensors", "report.html", "before-after.png"} <= paths
    assert any(path.startswith("samples/") for path in paths)


def test_the_conditions_tell_the_story(first: First) -> None:
    expected = {"Accepted": "True", "Scheduled": "Unknown", "Training": "False", "ResultUploaded": "True"}
    expected |= {"DataPurged": "True", "Succeeded": "True", "Finished": "True"}
    told = {kind: condition(first.status, kind) for kind in expected}
    assert told == expected
    assert first.status["attempts"]["started"] == 1


def test_events_are_few_and_ordered(first: First) -> None:
    events = sorted(first.training.events(), key=lambda one: one["eventTime"])
    assert [one["reason"] for one in events] == ["Started", "Completed"]
    assert "Completed" in first.training.kubectl("describe", "dbj", "robot")


def test_kubectl_get_shows_progress(first: First) -> None:
    running, done = first.running_table, first.training.kubectl("get", "dbj")
    assert re.search(r"robot +Training +\d+/250", running), running
    assert re.search(r"robot +Succeeded +250/250", done), done


def test_logs_are_json_and_name_nothing_private(first: First, site: Site) -> None:
    lines = first.logs()
    assert {"event", "timestamp"} <= set(lines[0])
    text = first.training.logs()
    private = [*(path.name for path in PICTURES.glob("*.png")), "a photo of", site.s3.secret_key, site.s3.access_key]
    assert [word for word in private if word in text] == []


def test_the_pod_has_no_key_to_the_cluster_but_its_progress_token(first: First) -> None:
    (pod,) = first.training.pods()
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    tokens = [
        source["serviceAccountToken"]["audience"]
        for volume in spec["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        if "serviceAccountToken" in source
    ]
    assert tokens == ["dreambooth.dev/progress"]


def test_secrets_stand_in_secrets_only(first: First, site: Site) -> None:
    """Searched in every object but the Secrets themselves, and in the operator's logs."""
    kinds = "pods,jobs,trainingjobs,events,configmaps,deployments,leases.coordination.k8s.io"
    everything = site.kubectl("get", kinds, "--all-namespaces", "-o", "yaml")
    logs = site.kubectl(
        "-n", site.release, "logs", "-l", f"app.kubernetes.io/instance={site.release}", "--tail=-1", "--prefix"
    )
    assert SECRET in everything
    for key in (site.s3.secret_key, site.s3.access_key):
        assert key not in everything
        assert key not in logs


def test_nothing_remains_on_the_node(first: First, site: Site) -> None:
    """The same search that finds pictures, base model and keys while the pod runs finds nothing afterwards."""
    if site.node is None:
        pytest.skip("the node of a given cluster cannot be searched from here")
    sought = {source for source in first.needles.by_source if not source.startswith("pixels")}  # in no file, ever
    assert sought <= set().union(*first.traces_while_running.values())
    eventually(lambda: not _on_node(site, first), "a node without traces", 60)
    site.node.run_inside("sync")
    assert traces.in_raw_disk(site.node.disk_image, first.needles) == set()


def test_a_disk_keeps_the_blocks_of_what_was_deleted(first: First, site: Site) -> None:
    """With the default medium no file remains, but deleted blocks do: the raw search can find what is there."""
    if site.node is None:
        pytest.skip("the node of a given cluster cannot be searched from here")
    on_disk = short_job("on-disk", runtime=ON_CPU | {"scratch": {"medium": "Disk", "sizeLimit": "1Gi"}})
    training = Training.apply(site, first.training.namespace, on_disk)
    training.wait_for_checkpoints(1)
    site.node.run_inside("sync")
    training.succeed()
    eventually(lambda: not _on_node(site, first), "a node without traces", 60)
    site.node.run_inside("sync")
    found = traces.in_raw_disk(site.node.disk_image, first.needles)
    assert any(source.startswith("picture") for source in found)
    assert "secret key" not in found


def test_times(first: First, site: Site, report: Report) -> None:
    applied = _time(site.kubectl.get("-n", first.training.namespace, "dbj", "robot")["metadata"]["creationTimestamp"])
    lines = first.logs()
    if first.container_started:
        since_start = {line["event"]: _time(line["timestamp"]) - first.container_started for line in reversed(lines)}
        report.time("container start to the first log line", since_start["job_started"])
        report.time("container start to torch and diffusers imported", since_start["libraries_imported"])
    stages = {line["stage"]: line for line in lines if line["event"] == "stage_finished"}
    trained = _time(stages["train"]["timestamp"])
    report.time("apply to the first log line", _time(lines[0]["timestamp"]) - applied)
    report.time(
        "apply to the first training step (class pictures drawn before it)",
        trained - stages["train"]["seconds"] - applied,
    )
    report.time("training, 250 steps of batch 6 (example 01)", stages["train"]["seconds"])
    (pod,) = first.training.pods()
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    report.time("apply to done", _time(ended["finishedAt"]) - applied)


def _needles(site: Site) -> traces.Needles:
    found = traces.Needles()
    for path in PICTURES.glob("*.png"):
        found.add_picture(path)
    for path in BASE.rglob("*.safetensors"):
        found.add_weights(f"base {path.parent.name}", path)
    found.add_credentials(site.s3)
    return found


def _on_node(site: Site, first: First) -> dict[str, set[str]]:
    """In every file of kubelet and containerd, on disk and in memory, that was written since the job was applied."""
    if site.node is None:
        return {}
    node, found = site.node, {}
    for folder in (node.seen(node.disk), node.seen(node.state), node.images):
        found |= traces.in_files(folder, first.needles, changed_after=first.applied - 1)
    return found


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
