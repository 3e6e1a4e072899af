from __future__ import annotations

import base64

import pytest

from devcluster.environment import ConfigError
from devcluster.volumes import Volumes

METADATA = {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}}


class Tokens:
    """Answers TokenRequests; counts them."""

    def __init__(self):
        self.requests = []

    def create(self, path, body):
        self.requests.append((path, body["spec"]))
        return {"status": {"token": f"token-{len(self.requests)}"}}


@pytest.fixture
def secret():
    return {"data": {key: base64.b64encode(value).decode() for key, value in {"ID": b"me", "KEY": b"\xff"}.items()}}


@pytest.fixture
def make(tmp_path, secret):
    def volumes(*volumes, kube=None):
        pod = {"metadata": METADATA, "spec": {"serviceAccountName": "robot", "volumes": list(volumes)}}
        objects = {("secrets", "s"): secret, ("configmaps", "c"): {"data": {"text": "hi"}}}
        return Volumes(pod, tmp_path, kube, lambda kind, name: objects.get((kind, name)))

    return volumes


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("..")}


def test_a_secret_becomes_one_file_per_key(make):
    volumes = make({"name": "v", "secret": {"secretName": "s", "defaultMode": 0o400}})
    volumes.write()
    assert content(volumes.folder("v")) == {"ID": b"me", "KEY": b"\xff"}
    assert (volumes.folder("v") / "ID").stat().st_mode & 0o777 == 0o400


def test_a_changed_secret_replaces_all_files_at_once(make, secret):
    volumes = make({"name": "v", "secret": {"secretName": "s"}})
    volumes.write()
    before = (volumes.folder("v") / "..data").readlink()
    volumes.write()
    assert (volumes.folder("v") / "..data").readlink() == before
    del secret["data"]["KEY"]
    secret["data"]["ID"] = base64.b64encode(b"you").decode()
    volumes.write()
    assert content(volumes.folder("v")) == {"ID": b"you"}
    assert not (volumes.folder("v") / before).exists()


def test_what_a_container_writes_survives_a_renewal(make):
    volumes = make({"name": "v", "emptyDir": {}})
    volumes.write()
    (volumes.folder("v") / "file").write_text("kept")
    volumes.write()
    assert content(volumes.folder("v")) == {"file": b"kept"}


def test_items_choose_keys_and_paths(make):
    volumes = make({"name": "v", "configMap": {"name": "c", "items": [{"key": "text", "path": "deep/er"}]}})
    volumes.write()
    assert (volumes.folder("v") / "deep" / "er").read_text() == "hi"


def test_projected_sources_share_one_folder(make):
    kube = Tokens()
    sources = [
        {"secret": {"name": "s", "items": [{"key": "ID", "path": "id"}]}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"serviceAccountToken": {"path": "token", "audience": "a", "expirationSeconds": 3600}},
    ]
    volumes = make({"name": "v", "projected": {"sources": sources}}, kube=kube)
    volumes.write()
    assert content(volumes.folder("v")) == {"id": b"me", "labels": b'a="b"\n', "token": b"token-1"}
    ((path, request),) = kube.requests
    assert path == "/api/v1/namespaces/n/serviceaccounts/robot/token"
    assert request["audiences"] == ["a"]
    assert request["boundObjectRef"]["uid"] == "u"


def test_a_token_is_asked_for_again_only_when_it_ages(make):
    kube = Tokens()
    token = {"serviceAccountToken": {"path": "token", "expirationSeconds": 0}}
    volumes = make({"name": "v", "projected": {"sources": [token]}}, kube=kube)
    volumes.write()
    volumes.write()
    assert content(volumes.folder("v")) == {"token": b"token-2"}
    token["serviceAccountToken"]["expirationSeconds"] = 600
    for _ in range(2):
        volumes.write()
    assert len(kube.requests) == 3


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        ({"configMap": {"name": "c", "items": [{"key": "z", "path": "z"}]}}, "non-existent configmap key: z"),
        ({"hostPath": {"path": "/"}}, 'volume "v": the process node does not know hostPath'),
    ],
)
def test_what_cannot_be_mounted_is_named(make, volume, message):
    with pytest.raises(ConfigError, match=message):
        make({"name": "v", **volume}).write()


def test_an_optional_source_may_be_missing(make):
    volumes = make({"name": "v", "secret": {"secretName": "none", "optional": True}})
    volumes.write()
    assert content(volumes.folder("v")) == {}


def test_a_sub_path_is_a_part_of_the_volume(make):
    volumes = make({"name": "v", "emptyDir": {}})
    volumes.write()
    mounts = volumes.mounts({"volumeMounts": [{"name": "v", "mountPath": "/work", "subPath": "a/b"}]})
    assert mounts == {"/work": volumes.folder("v") / "a" / "b"}
    assert mounts["/work"].is_dir()
