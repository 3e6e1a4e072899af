"""The throw-away cluster itself: it starts, serves, and leaves nothing behind, however its owner ends."""

from __future__ import annotations

import subprocess


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
