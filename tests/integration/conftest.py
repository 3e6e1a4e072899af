"""One real cluster per test session: etcd, kube-apiserver, controllers, scheduler, a node of processes, an S3 server.

    def test_something(namespace, bucket, cluster, s3): ...

`cluster.kube` sends plain requests as system:masters, `cluster.kubeconfig` serves any other client, and namespaces
keep the tests apart. The CRDs are installed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from devcluster.cluster import Cluster, scratch_folder
from devcluster.toolchain import cache_dir
from dreambooth_api.crd import crd


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with scratch_folder(cache_dir() / "test-clusters") as folder, Cluster(folder) as cluster:
        cluster.install_crd(crd())
        cluster.add_node()
        yield cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace whose ServiceAccount exists; its deletion is started at the end, not waited for."""
    name = f"test-{secrets.token_hex(4)}"
    cluster.add_namespace(name)
    yield name
    cluster.kube.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="session")
def s3(cluster: Cluster) -> Any:
    """A boto3 client with root credentials."""
    return cluster.s3.client()


@pytest.fixture
def bucket(s3: Any) -> str:
    """A fresh bucket; it goes with the cluster."""
    name = f"test-{secrets.token_hex(4)}"
    s3.create_bucket(Bucket=name)
    return name
