"""What is in the images, asked from inside, as a restricted pod with a user that no image knows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from devcluster.images import MEBIBYTE, layout_dir
from devcluster.registry import blob
from tests.e2e.report import Report
from tests.e2e.site import Object, Site

OPERATOR_BYTES = 250_000_000
STARTUP = Path(__file__).parents[2] / "benchmarks" / "startup.py"

ASK = """
import json, os, shutil, stat, sys, time
from pathlib import Path
started = time.perf_counter()
if sys.argv[1] == "torch":
    import torch
sbom = json.loads(Path("/opt/venv/sbom.cdx.json").read_text())
places = [Path(parent) for parent, _, _ in os.walk("/") if not parent.startswith(("/proc", "/sys", "/dev"))]
print(json.dumps({
    "seconds": time.perf_counter() - started,
    "found": [name for name in ("gcc", "cc", "ld", "pip", "pip3", "uv", "curl", "git") if shutil.which(name)],
    "writable": [str(place) for place in places
                 if (mode := place.stat().st_mode) & 0o002 and not mode & stat.S_ISVTX or place.stat().st_uid == 65532],
    "packages": [part["name"] for part in sbom["components"]],
    "uncompiled": [str(path) for path in Path("/opt/venv").rglob("dreambooth_*/*.py")
                   if not list((path.parent / "__pycache__").glob(path.stem + ".*.pyc"))],
    "static": [str(path) for path in Path("/opt/venv").rglob("*.a")],
    "bytes": sum(path.lstat().st_blocks * 512 for parent, _, names in os.walk("/opt/venv")
                 for path in (Path(parent, name) for name in names)),
}))
"""


@pytest.mark.parametrize(
    ("image", "has", "has_not"),
    [
        ("operator", {"kubernetes", "pydantic"}, {"torch", "boto3"}),
        ("job", {"torch", "diffusers", "boto3"}, {"kubernetes"}),
    ],
)
def test_an_image_holds_what_it_needs_and_no_more(
    site: Site, namespace: str, image: str, has: set[str], has_not: set[str], report: Report
) -> None:
    told = _ask(site, namespace, site.job_image if image == "job" else site.operator_image, image)
    assert has <= set(told["packages"])
    assert not has_not & set(told["packages"])
    assert told["found"] == told["writable"] == told["uncompiled"] == told["static"] == []
    report.size(f"{image} image, its Python packages unpacked", told["bytes"] / MEBIBYTE)
    if image == "job":
        report.time("import torch, a second time on the node", told["seconds"])


def test_the_job_speaks_before_torch_is_there(site: Site, namespace: str, report: Report) -> None:
    table = site.run_python(namespace, site.job_image, "startup", STARTUP.read_text())
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    seconds = {moment: float(wall) for moment, wall, _ in rows[2:]}
    assert seconds["first log line"] < seconds["torch and diffusers imported"]
    assert seconds["first progress report"] < seconds["torch and diffusers imported"]
    for moment, passed in seconds.items():
        report.time(f"start of `dreambooth-job` to {moment} (benchmarks/startup.py)", passed)


@pytest.mark.parametrize("name", ["dreambooth-operator", "dreambooth-job"])
def test_an_image_says_what_it_is(site: Site, name: str) -> None:
    if site.node is None:
        pytest.skip("the images of a given cluster were not built here")
    manifest = _read(site.node.image(name)[1])
    config = _read(manifest["config"]["digest"])["config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == [name]
    labels = {key.rpartition(".")[2] for key in config["Labels"] if key.startswith("org.opencontainers.image.")}
    assert labels >= {"title", "description", "licenses", "version", "revision"}


def test_the_operator_is_small(site: Site, report: Report) -> None:
    if site.node is None:
        pytest.skip("the images of a given cluster were not built here")
    layers = _read(site.node.image("dreambooth-operator")[1])["layers"]
    size = sum(len(gzip.decompress(blob(layout_dir(), layer["digest"]).read_bytes())) for layer in layers)
    assert size < OPERATOR_BYTES
    report.size("operator image, unpacked", size / MEBIBYTE)


def test_a_change_of_code_is_a_small_layer(site: Site) -> None:
    if site.node is None:
        pytest.skip("the images of a given cluster were not built here")
    for name in ("dreambooth-operator", "dreambooth-job"):
        *_, code = _read(site.node.image(name)[1])["layers"]
        assert code["size"] < 2 * MEBIBYTE


def _read(digest: str) -> Object:
    return dict(json.loads(blob(layout_dir(), digest).read_text()))


def _ask(site: Site, namespace: str, image: Object, name: str) -> dict[str, Any]:
    return dict(json.loads(site.run_python(namespace, image, name, ASK, "torch" if name == "job" else "")))
