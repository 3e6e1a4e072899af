"""A pod's volumes as folders: emptyDir, secret, configMap, downwardAPI and projected.

Files from the API are written as a kubelet writes them: a new folder each time, and one symbolic link `..data` that is
moved to it, so a reader sees all of the old content or all of the new.
"""

from __future__ import annotations

import base64
import shutil
import time
from pathlib import Path
from typing import Any

from devcluster.environment import ConfigError, Lookup, Object, field, resource
from devcluster.kube import ApiError, Kube

TOKEN_REFRESH_FRACTION = 0.8  # of a token's life, as a kubelet does

Files = dict[str, tuple[bytes, int]]  # relative path -> content, mode


class Volumes:
    """The volumes of one pod below `folder`."""

    def __init__(self, pod: Object, folder: Path, kube: Kube, lookup: Lookup) -> None:
        self._pod, self._folder, self._kube, self._lookup = pod, folder, kube, lookup
        self._written: dict[str, Files] = {}
        self._tokens: dict[str, tuple[str, float]] = {}  # by volume and path: token, when to ask for the next

    def write(self) -> None:
        """Makes what is missing and renews what has changed. Raises ConfigError when a source is not there."""
        for volume in self._pod["spec"].get("volumes", ()):
            folder = self.folder(volume["name"])
            folder.mkdir(parents=True, exist_ok=True)
            files = self._files(volume)
            if files != self._written.get(volume["name"], {}):
                _replace(folder, files)
                self._written[volume["name"]] = files

    def folder(self, name: str) -> Path:
        return self._folder / name

    def mounts(self, container: Object) -> dict[str, Path]:
        """Mount path -> the folder, or with a subPath the file or folder in it, that stands for it."""
        mounts = {}
        for mount in container.get("volumeMounts", ()):
            real = self.folder(mount["name"]) / mount.get("subPath", "")
            if not real.exists():
                real.mkdir(parents=True)
            mounts[mount["mountPath"]] = real
        return mounts

    def _files(self, volume: Object) -> Files:
        if "emptyDir" in volume:
            return {}
        if "secret" in volume:
            source = volume["secret"]
            return self._keys("secrets", source | {"name": source["secretName"]}, source.get("defaultMode", 0o644))
        if "configMap" in volume:
            return self._keys("configmaps", volume["configMap"], volume["configMap"].get("defaultMode", 0o644))
        if "downwardAPI" in volume:
            return self._downward(volume["downwardAPI"], volume["downwardAPI"].get("defaultMode", 0o644))
        if "projected" in volume:
            return self._projected(volume["name"], volume["projected"])
        kinds = ", ".join(key for key in volume if key != "name")
        raise ConfigError(f'volume "{volume["name"]}": the process node does not know {kinds}')

    def _projected(self, name: str, projected: Object) -> Files:
        files: Files = {}
        mode = projected.get("defaultMode", 0o644)
        for source in projected.get("sources", ()):
            if "secret" in source:
                files |= self._keys("secrets", source["secret"], mode)
            elif "configMap" in source:
                files |= self._keys("configmaps", source["configMap"], mode)
            elif "downwardAPI" in source:
                files |= self._downward(source["downwardAPI"], mode)
            elif "serviceAccountToken" in source:
                wanted = source["serviceAccountToken"]
                files[wanted["path"]] = self._token(name, wanted).encode(), 0o600
            else:
                raise ConfigError(f'volume "{name}": the process node does not know {", ".join(source)}')
        return files

    def _keys(self, kind: str, source: Object, mode: int) -> Files:
        found = self._lookup(kind, source["name"])
        if found is None:
            if source.get("optional"):
                return {}
            raise ConfigError(f'{kind[:-1]} "{source["name"]}" not found')
        data = _data(kind, found)
        if "items" not in source:
            return {key: (content, mode) for key, content in data.items()}
        missing = [item["key"] for item in source["items"] if item["key"] not in data]
        if missing and not source.get("optional"):
            raise ConfigError(f"references non-existent {kind[:-1]} key: {missing[0]}")
        return {i["path"]: (data[i["key"]], i.get("mode", mode)) for i in source["items"] if i["key"] in data}

    def _downward(self, source: Object, mode: int) -> Files:
        return {item["path"]: (self._item(item).encode(), item.get("mode", mode)) for item in source.get("items", ())}

    def _item(self, item: Object) -> str:
        if "fieldRef" in item:
            return field(self._pod, item["fieldRef"]["fieldPath"])
        reference = item["resourceFieldRef"]
        containers = {container["name"]: container for container in self._pod["spec"]["containers"]}
        return resource(containers[reference["containerName"]], reference)

    def _token(self, volume: str, wanted: Object) -> str:
        """A token of the pod's ServiceAccount, for one audience, worth nothing once the pod is gone."""
        name = f"{volume}/{wanted['path']}"
        token, renew_at = self._tokens.get(name, ("", 0.0))
        if time.time() < renew_at:
            return token
        metadata, spec = self._pod["metadata"], self._pod["spec"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        request: dict[str, Any] = {"boundObjectRef": bound, "expirationSeconds": wanted.get("expirationSeconds", 3600)}
        if "audience" in wanted:
            request["audiences"] = [wanted["audience"]]
        account = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{spec['serviceAccountName']}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": request}
        try:
            token = self._kube.create(account, body)["status"]["token"]
        except ApiError as error:
            raise ConfigError(f"failed to fetch token: {error}") from error
        self._tokens[name] = token, time.time() + TOKEN_REFRESH_FRACTION * request["expirationSeconds"]
        return str(token)


def _data(kind: str, found: Object) -> dict[str, bytes]:
    data = found.get("data") or {}
    if kind == "secrets":
        return {key: base64.b64decode(value) for key, value in data.items()}
    binary = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    return {key: value.encode() for key, value in data.items()} | binary


def _replace(folder: Path, files: Files) -> None:
    """Brings the folder's visible files to `files`, all at once."""
    new = folder / f"..{time.time_ns()}"
    for relative, (content, mode) in files.items():
        path = new / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(content)
        path.chmod(mode)
    new.mkdir(exist_ok=True)
    data = folder / "..data"
    old = folder / data.readlink() if data.is_symlink() else None
    link = folder / "..data_tmp"
    link.symlink_to(new.name)
    link.rename(data)
    visible = {Path(relative).parts[0] for relative in files}
    for entry in folder.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in visible:
            entry.unlink()
    for name in visible:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    if old:
        shutil.rmtree(old, ignore_errors=True)
