"""The release's life: examined by `helm test`, upgraded while a job trains, uninstalled while a job trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from dreambooth_api.names import GROUP, PLURAL
from tests.e2e.report import Report
from tests.e2e.site import CHART, Site, eventually
from tests.e2e.trainings import Clock, Training, condition, short_job


def test_helm_test_finds_everything_in_order(site: Site, release: str, report: Report) -> None:
    clock = Clock()
    said = site.helm("test", site.release, "--namespace", site.release, "--logs", "--timeout", "3m")
    checked = {line.split()[1] for line in said.splitlines() if line.startswith("ok ")}
    assert checked >= {"crd", "rights", "secrets", "lease", "put", "get", "list", "delete"}, said
    report.time("`helm test`: the cluster's doctor and the bucket's", clock())


def test_upgrade_keeps_what_runs(site: Site, namespace: str, report: Report, tmp_path: Path) -> None:
    """To a chart of another version with another pod template, as a new release brings."""
    clock, training = Clock(), Training.apply(site, namespace, short_job("upgraded"))
    training.wait_for_checkpoints(1)
    before = _operators(site)
    site.install(_next_version(tmp_path), podAnnotations={"example.org/release": "next"})
    eventually(lambda: not before & _operators(site), "operators of the next release alone")
    status = training.succeed()
    assert status["attempts"]["started"] == 1
    report.ending("`helm upgrade`", f"{status['state']} in 1 attempt", clock())


def test_uninstall_keeps_results_and_hangs_on_nothing(site: Site, namespace: str, report: Report) -> None:
    clock, training = Clock(), Training.apply(site, namespace, short_job("orphaned"))
    training.wait_for_checkpoints(1)
    site.uninstall()
    eventually(lambda: training.pods()[-1]["status"]["phase"] == "Succeeded", "a result without an operator")
    training.check_published()
    assert condition(training.status(), "Finished") != "True"  # nobody was there to say so
    site.install()
    status = training.succeed(60)
    report.ending("`helm uninstall`, installed again later", f"{status['state']} in 1 attempt", clock())
    site.uninstall()
    training.kubectl("delete", "dbj", training.name, "--timeout=30s")
    training.check_published()
    site.kubectl("get", "crd", f"{PLURAL}.{GROUP}")


def _operators(site: Site) -> set[str]:
    ours = f"app.kubernetes.io/instance={site.release},app.kubernetes.io/component=operator"
    return {pod["metadata"]["uid"] for pod in site.kubectl.items("-n", site.release, "pods", "-l", ours)}


def _next_version(folder: Path) -> Path:
    chart = Path(shutil.copytree(CHART, folder / CHART.name))
    description = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(description | {"version": "99.0.0"}))
    return chart
