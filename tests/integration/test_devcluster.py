"""The throw-away cluster itself: it starts, serves, and leaves nothing behind, however its owner ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster.cluster import wait_until
from devcluster.processes import Identity
from devcluster.s3 import download, list_objects, remove, upload
from devcluster.supervisor import down, status


def test_kubectl_and_server_are_of_one_version(cluster):
    answer = subprocess.run(
        [cluster.tools.kubectl, "--kubeconfig", cluster.kubeconfig, "version"], capture_output=True, text=True
    )
    versions = [line.split(": ")[1] for line in answer.stdout.splitlines() if "Kustomize" not in line]
    assert len(versions) == 2
    assert versions[0] == versions[1]


def test_objects_outlive_an_outage_of_the_bucket_server(cluster, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"1")
    with cluster.s3_server.away():
        pass
    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"1"


def test_files_of_a_folder_go_up_and_come_down(s3, bucket, tmp_path):
    source = tmp_path / "photos"
    (source / "a b").mkdir(parents=True)
    (source / "a b" / "1.png").write_bytes(b"one")
    assert upload(s3, source, f"s3://{bucket}/mine/") == 1
    (line,) = list_objects(s3, f"s3://{bucket}/")
    assert line.endswith(f" 3 s3://{bucket}/mine/a b/1.png")
    assert download(s3, f"s3://{bucket}/mine/", tmp_path / "back") == 1
    assert (tmp_path / "back" / "a b" / "1.png").read_bytes() == b"one"
    remove(s3, f"s3://{bucket}/mine/")
    assert list(list_objects(s3, f"s3://{bucket}/")) == []


@pytest.fixture
def devcluster(tmp_path):
    """Starts `python -m devcluster --state ... WORD`; a place with spaces, removed at the end."""
    folder = tmp_path / "a place with spaces"

    def run(word):
        command = [sys.executable, "-m", "devcluster", "--state", folder, word]
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    run.folder = folder
    yield run
    down(folder)


def test_down_leaves_nothing_of_a_start_that_was_interrupted(devcluster):
    with devcluster("up") as up:
        wait_until(lambda: len(_processes_of(devcluster.folder)) >= 4, "the first programs", 30)
        up.kill()
    assert _processes_of(devcluster.folder)
    with devcluster("down") as command:
        assert command.wait(60) == 0
    assert _processes_of(devcluster.folder) == []
    assert not devcluster.folder.exists()


def test_a_running_cluster_is_used_again_and_a_killed_one_replaced(devcluster):
    with devcluster("up") as up:
        assert up.wait(120) == 0, up.stderr.read()
    first = status(devcluster.folder)
    assert first.kube.get("/api/v1/nodes/local")
    with devcluster("up") as again:
        assert "Starting" not in again.communicate(timeout=60)[1]
    assert len(_processes_of(devcluster.folder)) >= 8  # daemon, etcd, API server, two controllers, S3, node, operator
    Identity.read(devcluster.folder / "owner").send(signal.SIGKILL)
    wait_until(lambda: _processes_of(devcluster.folder) == [], "the end of every process", 10)
    assert status(devcluster.folder) is None
    with devcluster("down") as command:
        assert command.wait(60) == 0
    assert not devcluster.folder.exists()


def _processes_of(folder: Path) -> list[bytes]:
    """Command line and environment of the living processes that name the folder, the `devcluster` command left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.append((process / "cmdline").read_bytes() + (process / "environ").read_bytes())
    return [text for text in found if str(folder).encode() in text and b"--state" not in text]
