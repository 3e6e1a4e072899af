"""The shipped thing on a real kubelet: images from the Dockerfile, installed by the chart. `make e2e` runs it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from devcluster.cluster import scratch_folder
from devcluster.realnode import check
from devcluster.toolchain import cache_dir
from tests.e2e.report import Report
from tests.e2e.site import Site, given_cluster, own_node
from tests.e2e.trainings import fill_buckets


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    given = os.environ.get("KUBECONFIG")
    if not given:
        check()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder(cache_dir() / "e2e"))
        site = stack.enter_context(given_cluster(folder, Path(given)) if given else own_node(folder))
        fill_buckets(site)
        yield site


@pytest.fixture(scope="session")
def release(site: Site) -> Iterator[str]:
    """The chart's notes."""
    site.add_namespace(site.release)
    yield site.install()
    site.uninstall()
    site.kubectl("delete", "namespace", site.release, "--wait=false")


@pytest.fixture(scope="session")
def report() -> Iterator[Report]:
    """Printed at the end, and kept beside the other caches; docs/e2e.md holds one."""
    report = Report()
    yield report
    path = cache_dir() / "e2e-report.md"
    path.write_text(f"{report}\n")
    print(f"\n\n{report}\n\nKept in {path}.")


@pytest.fixture
def namespace(site: Site, release: str) -> Iterator[str]:
    """A fresh one that enforces the restricted Pod Security Standard."""
    name = f"studio-{secrets.token_hex(3)}"
    site.add_namespace(name)
    yield name
    site.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
