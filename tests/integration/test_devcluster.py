"""The throw-away cluster itself: it starts, serves, and leaves nothing behind, however its owner ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from devcluster.cluster import scratch_folder, wait_until


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


OWNER = """
import sys, time
from pathlib import Path
from devcluster.cluster import Cluster, scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder, Cluster(folder) as cluster:
    cluster.add_node()
    print(folder, flush=True)
    time.sleep(600)
"""


def test_nothing_outlives_an_owner_that_is_killed(tmp_path):
    place = tmp_path / "a place with spaces"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, place], stdout=subprocess.PIPE, text=True, env=_environment()
    )
    try:
        folder = owner.stdout.readline().strip()
        assert len(_processes_of(folder)) >= 6  # etcd, API server, controllers, scheduler, S3 server, node
    finally:
        owner.kill()
        owner.communicate()
    wait_until(lambda: not _processes_of(folder), "the end of every process", 10)
    with scratch_folder(place):
        assert not Path(folder).exists()


def _processes_of(folder: str) -> list[str]:
    """Command lines of the living processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if folder in line]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
