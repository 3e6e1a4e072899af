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
from typing import Any

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
    id: str  # of the configuration, which names the uncompressed layers
    layer_bytes: tuple[int, ...]  # compressed lightly, in order

    def __str__(self) -> str:
        return f"{self.name}@{self.digest} {sum(self.layer_bytes) / MEBIBYTE:,.0f} MiB compressed"


def layout_dir() -> Path:
    return cache_dir() / "images"


def build(say: Say = say_on_stderr) -> dict[str, Image]:
    """Every image, by name; what has not changed is not built again. Raises ImageError."""
    engine = _engine(say)
    for name in (*NAMES, PAUSE):
        started = time.monotonic()
        built = engine.build(name)
        say(f"  {name} built in {time.monotonic() - started:.0f} s: {engine.size(name)}")
        if name not in images() or images()[name].id != built:
            started = time.monotonic()
            engine.export(name, layout_dir())
            say(f"  {name} written to {layout_dir()} in {time.monotonic() - started:.0f} s")
    _drop_what_has_no_name(layout_dir())
    return images()


def check() -> None:
    """Raises ImageError where no image can be built."""
    _engine(say_on_stderr)


def images() -> dict[str, Image]:
    """What `build` has left in the layout."""
    found = {}
    for one in _named(layout_dir()):
        manifest = json.loads(blob(layout_dir(), one["digest"]).read_text())
        name = one["annotations"][REF_NAME].partition(":")[0]
        layers = tuple(layer["size"] for layer in manifest["layers"])
        found[name] = Image(name, one["digest"], manifest["config"]["digest"], layers)
    return found


class _Buildah:
    def __init__(self, say: Say) -> None:
        self._say = say
        if os.geteuid() or not shutil.which("buildah") or not shutil.which("debootstrap"):
            raise ImageError("images need a docker engine, or root and: apt-get install buildah debootstrap")
        store = cache_dir() / "containers"
        self._command = ["buildah", "--root", str(store), "--storage-driver", "overlay"]
        self._base = os.environ.get("BASE") or _default_base()
        self._temporary = cache_dir() / "tmp"  # layers being written; buildah's own choice is below /var

    def build(self, name: str) -> str:
        """The image's id."""
        if name == PAUSE:
            self._build_pause()
        else:
            self._build_target(name)
        return "sha256:" + self._run("images", "--quiet", "--no-trunc", _local(name)).strip().removeprefix("sha256:")

    def size(self, name: str) -> str:
        """Of all layers, unpacked."""
        return self._run("images", "--format", "{{.Size}}", "--noheading", _local(name)).strip()

    def _build_target(self, name: str) -> None:
        self._ensure_base()
        target = name.removeprefix("dreambooth-")
        with tempfile.TemporaryDirectory() as folder:
            given = ["--build-arg", f"BASE={self._base}", "--build-arg", f"REVISION={_revision()}"]
            flags = ["--layers", "--pull-never", *given, "--target", target]
            self._run("bud", *flags, *_own_authorities(Path(folder)), "--tag", _local(name), str(REPOSITORY))

    def export(self, name: str, layout: Path) -> None:
        # The way to a node of this machine is short: compressing five gigabytes well would take minutes.
        self._run("push", "--quiet", "--compression-level", "1", _local(name), f"oci:{layout}:{name}:{TAG}")

    def _build_pause(self) -> None:
        """The image of every pod's first container, which only waits."""
        if self._succeeds("inspect", "--type", "image", _local(PAUSE)):
            return
        container = self._run("from", "scratch").strip()
        self._run("add", "--quiet", container, str(node_tools(self._say).pause), "/pause")
        self._run("config", "--entrypoint", '["/pause"]', "--user", "65535:65535", container)
        self._run("commit", "--quiet", "--rm", container, _local(PAUSE))

    def _ensure_base(self) -> None:
        if self._succeeds("inspect", "--type", "image", self._base) or self._succeeds("pull", "--quiet", self._base):
            return
        if os.environ.get("BASE"):
            raise ImageError(f"BASE={self._base} is not here and cannot be pulled")
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
        self._temporary.mkdir(parents=True, exist_ok=True)
        return _run([*self._command, *arguments], {"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self._temporary)})

    def _succeeds(self, *arguments: str) -> bool:
        try:
            done = subprocess.run([*self._command, *arguments], capture_output=True, timeout=BASE_PULL_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


class _Docker:
    def __init__(self, say: Say) -> None:
        self._say = say

    def build(self, name: str) -> str:
        """The image's id."""
        if name == PAUSE:
            self._build_pause()
        else:
            base = ["--build-arg", f"BASE={os.environ['BASE']}"] if os.environ.get("BASE") else []
            target = name.removeprefix("dreambooth-")
            given = [*base, "--build-arg", f"REVISION={_revision()}"]
            _run(["docker", "build", *given, "--target", target, "--tag", f"{name}:{TAG}", str(REPOSITORY)])
        return _run(["docker", "inspect", "--format", "{{.Id}}", f"{name}:{TAG}"]).strip()

    def size(self, name: str) -> str:
        return _run(["docker", "images", "--format", "{{.Size}}", f"{name}:{TAG}"]).strip()

    def export(self, name: str, layout: Path) -> None:
        """docker save writes an OCI image layout as a tar file (engine 25 and newer)."""
        with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
            archive = Path(folder) / "image.tar"
            _run(["docker", "save", "--output", str(archive), f"{name}:{TAG}"])
            _run(["tar", "-xf", str(archive), "-C", folder])
            _merge_layout(Path(folder), layout, f"{name}:{TAG}")

    def _build_pause(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(node_tools(self._say).pause, folder)
            recipe = ["FROM scratch", "COPY pause /", "USER 65535:65535", 'ENTRYPOINT ["/pause"]']
            Path(folder, "Dockerfile").write_text("\n".join(recipe))
            _run(["docker", "build", "--tag", f"{PAUSE}:{TAG}", folder])


def _engine(say: Say) -> _Docker | _Buildah:
    return _Docker(say) if _docker_runs() else _Buildah(say)


def _revision() -> str:
    """Of the sources; "unknown" outside a git checkout."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


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
    (one,) = json.loads((source / "index.json").read_text())["manifests"]
    kept = [other for other in _named(layout) if other["annotations"][REF_NAME] != name]
    _write_index(layout, [*kept, {**one, "annotations": {REF_NAME: name}}])


def _named(layout: Path) -> list[dict[str, Any]]:
    """The index's entries that have a name; one that was replaced has lost its own."""
    index = layout / "index.json"
    entries = json.loads(index.read_text())["manifests"] if index.exists() else []
    return [one for one in entries if REF_NAME in one.get("annotations", {})]


def _write_index(layout: Path, entries: list[dict[str, Any]]) -> None:
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))


def _drop_what_has_no_name(layout: Path) -> None:
    _write_index(layout, _named(layout))
    used = set()
    for one in _named(layout):
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
        if sys.argv[1:] == ["check"]:
            check()
        else:
            print(*build().values(), sep="\n")
    except ImageError as error:
        sys.exit(str(error))
