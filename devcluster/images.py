"""Builds the images of the Dockerfile into an OCI image layout: `python -m devcluster.images`, or `make images`.

With a docker engine, docker builds (and the images are in its store too); without one buildah does, as root and with no
daemon. Where no registry can be reached, the base image is made from Debian's own packages by debootstrap: the same
packages that debian:trixie-slim holds, and the same folders emptied.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devcluster.registry import REF_NAME, blob
from devcluster.toolchain import Say, cache_dir, node_tools, say_on_stderr

REPOSITORY = Path(__file__).parents[1]
NAMES = ("dreambooth-operator", "dreambooth-job")
PAUSE = "pause"
TAG = "dev"
MEBIBYTE = 1 << 20
BASE_PULL_SECONDS = 60
EMPTIED = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info",
    "var/cache", "var/log", "var/lib/apt/lists",
)  # fmt: skip


class ImageError(Exception):
    """An image could not be built; the message names the step and ends with its output's tail."""


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    digest: str  # of the manifest: what a pod may be pinned to
    layer_bytes: tuple[int, ...]  # uncompressed, in order

    def __str__(self) -> str:
        return f"{self.name}@{self.digest} {sum(self.layer_bytes) / MEBIBYTE:,.0f} MiB"


def layout_dir() -> Path:
    return cache_dir() / "images"


def build(say: Say = say_on_stderr) -> dict[str, Image]:
    """Every image, by name; what has not changed is not built again. Raises ImageError."""
    engine = _Docker(say) if _docker_runs() else _Buildah(say)
    for name in NAMES:
        started = time.monotonic()
        engine.build(name)
        say(f"  {name} built in {time.monotonic() - started:.0f} s")
        started = time.monotonic()
        engine.export(name, layout_dir())
        say(f"  {name} written to {layout_dir()} in {time.monotonic() - started:.0f} s")
    engine.export_pause(layout_dir())
    _drop_unused_blobs(layout_dir())
    return images()


def images() -> dict[str, Image]:
    """What `build` has left in the layout."""
    found = {}
    for one in json.loads((layout_dir() / "index.json").read_text())["manifests"]:
        manifest = json.loads(blob(layout_dir(), one["digest"]).read_text())
        name = one["annotations"][REF_NAME].partition(":")[0]
        found[name] = Image(name, one["digest"], tuple(layer["size"] for layer in manifest["layers"]))
    return found


class _Buildah:
    def __init__(self, say: Say) -> None:
        self._say = say
        if os.geteuid() or not shutil.which("buildah"):
            raise ImageError("images need a docker engine, or root and buildah (apt-get install buildah debootstrap)")
        store = cache_dir() / "containers"
        self._command = ["buildah", "--root", str(store), "--storage-driver", "overlay"]
        self._base = os.environ.get("BASE") or _default_base()

    def build(self, name: str) -> None:
        self._ensure_base()
        target = name.removeprefix("dreambooth-")
        with tempfile.TemporaryDirectory() as folder:
            flags = ["--layers", "--pull-never", "--build-arg", f"BASE={self._base}", "--target", target]
            self._run("bud", *flags, *_own_authorities(Path(folder)), "--tag", _local(name), str(REPOSITORY))

    def export(self, name: str, layout: Path) -> None:
        # Compressing five gigabytes takes minutes and saves nothing on the way to a node of this machine.
        self._run("push", "--quiet", "--disable-compression", _local(name), f"oci:{layout}:{name}:{TAG}")

    def export_pause(self, layout: Path) -> None:
        """The image of every pod's first container, which only waits."""
        container = self._run("from", "scratch").strip()
        self._run("add", "--quiet", container, str(node_tools(self._say).pause), "/pause")
        self._run("config", "--entrypoint", '["/pause"]', "--user", "65535:65535", container)
        self._run("commit", "--quiet", "--rm", container, _local(PAUSE))
        self.export(PAUSE, layout)

    def _ensure_base(self) -> None:
        if self._succeeds("inspect", "--type", "image", self._base) or self._succeeds("pull", "--quiet", self._base):
            return
        self._say(f"No registry gives {self._base}; making it from Debian's packages (about 30 s).")
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "root"
            _run(["debootstrap", "--variant=minbase", "--include=ca-certificates", "trixie", str(root)])
            for name in EMPTIED:
                shutil.rmtree(root / name)
                (root / name).mkdir()
            container = self._run("from", "scratch").strip()
            self._run("add", "--quiet", container, str(root), "/")
            self._run("config", "--cmd", "/bin/sh", container)
            self._run("commit", "--quiet", "--rm", container, self._base)

    def _run(self, *arguments: str) -> str:
        return _run([*self._command, *arguments], {"BUILDAH_ISOLATION": "chroot"})

    def _succeeds(self, *arguments: str) -> bool:
        try:
            done = subprocess.run([*self._command, *arguments], capture_output=True, timeout=BASE_PULL_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


class _Docker:
    def __init__(self, say: Say) -> None:
        self._say = say

    def build(self, name: str) -> None:
        base = ["--build-arg", f"BASE={os.environ['BASE']}"] if os.environ.get("BASE") else []
        target = name.removeprefix("dreambooth-")
        _run(["docker", "build", *base, "--target", target, "--tag", f"{name}:{TAG}", str(REPOSITORY)])

    def export(self, name: str, layout: Path) -> None:
        """docker save writes an OCI image layout as a tar file (engine 25 and newer)."""
        with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
            archive = Path(folder) / "image.tar"
            _run(["docker", "save", "--output", str(archive), f"{name}:{TAG}"])
            _run(["tar", "-xf", str(archive), "-C", folder])
            _merge_layout(Path(folder), layout, f"{name}:{TAG}")

    def export_pause(self, layout: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(node_tools(self._say).pause, folder)
            recipe = ["FROM scratch", "COPY pause /", "USER 65535:65535", 'ENTRYPOINT ["/pause"]']
            Path(folder, "Dockerfile").write_text("\n".join(recipe))
            _run(["docker", "build", "--tag", f"{PAUSE}:{TAG}", folder])
        self.export(PAUSE, layout)


def _docker_runs() -> bool:
    return shutil.which("docker") is not None and not subprocess.run(["docker", "info"], capture_output=True).returncode


def _default_base() -> str:
    given = re.search(r"^ARG BASE=(\S+)", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert given, "the Dockerfile names its base"
    return f"docker.io/library/{given.group(1)}"


def _local(name: str) -> str:
    return f"localhost/{name}:{TAG}"


def _own_authorities(folder: Path) -> list[str]:
    """Where this machine trusts an authority of its own ($SSL_CERT_FILE), so does the build; the image keeps none."""
    if not os.environ.get("SSL_CERT_FILE"):
        return []
    (folder / "uv.toml").write_text("native-tls = true\n")
    certificates = "/etc/ssl/certs"
    return ["-v", f"{certificates}:{certificates}:ro", "-v", f"{folder / 'uv.toml'}:/etc/uv/uv.toml:ro"]


def _merge_layout(source: Path, layout: Path, name: str) -> None:
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for path in (source / "blobs" / "sha256").iterdir():
        shutil.move(path, blobs / path.name)
    index = layout / "index.json"
    known = json.loads(index.read_text())["manifests"] if index.exists() else []
    (one,) = json.loads((source / "index.json").read_text())["manifests"]
    kept = [other for other in known if other["annotations"][REF_NAME] != name]
    new = {**one, "annotations": {REF_NAME: name}}
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*kept, new]}))


def _drop_unused_blobs(layout: Path) -> None:
    used = set()
    for one in json.loads((layout / "index.json").read_text())["manifests"]:
        manifest = json.loads(blob(layout, one["digest"]).read_text())
        used |= {one["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}
    for path in (layout / "blobs" / "sha256").iterdir():
        if f"sha256:{path.name}" not in used:
            path.unlink()


def _run(command: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ImageError(f"{' '.join(command[:2])} ... failed (exit {done.returncode}):\n{tail}")
    return done.stdout


if __name__ == "__main__":
    try:
        for image in build().values():
            print(image)
    except ImageError as error:
        sys.exit(str(error))
