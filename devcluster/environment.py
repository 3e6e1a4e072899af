"""What a container's process finds: its environment variables, its command line, and paths that exist here.

There are no mounts on the process node. Each mount path stands for a folder, so every environment value and argument
that is a mount path, or lies below one, is rewritten to the real folder. Pure, but for the lookups of Secrets and
ConfigMaps that are passed in.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

Object = dict[str, Any]
Lookup = Callable[[str, str], Object | None]  # ("secrets" | "configmaps", name) -> the object or None

NODE_ADDRESS = "127.0.0.1"
_REFERENCE = re.compile(r"\$(\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")
_SUFFIXES = {
    "m": Decimal("0.001"),
    **{letter: Decimal(1000**power) for power, letter in enumerate(["", "k", "M", "G", "T", "P", "E"])},
    **{f"{letter}i": Decimal(1024**power) for power, letter in enumerate("KMGTPE", 1)},
}


class ConfigError(Exception):
    """The container cannot be made as its spec stands now; a later try may succeed. Worded as a kubelet does."""


class Paths:
    """Mount paths and the folders (or files) that stand for them."""

    def __init__(self, real: Mapping[str, Path]) -> None:
        by_mount = {mount.rstrip("/"): str(path) for mount, path in real.items()}
        self._real = dict(sorted(by_mount.items(), key=lambda item: len(item[0]), reverse=True))  # the deepest first

    def rewrite(self, text: str) -> str:
        """The real path when `text` is a mount path or lies below one; anything else as it is."""
        for mount, real in self._real.items():
            if text == mount or text.startswith(f"{mount}/"):
                return real + text[len(mount) :]
        return text


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value, or stays when there is none; `$$` becomes `$`."""

    def replacement(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return variables.get(match[2], match[0])

    return _REFERENCE.sub(replacement, text)


def environment(container: Object, pod: Object, lookup: Lookup, base: Mapping[str, str]) -> dict[str, str]:
    """The variables as the container's author wrote them, paths not yet rewritten. Raises ConfigError."""
    variables = dict(base)
    for source in container.get("envFrom", ()):
        variables |= _all_keys(source, lookup)
    for entry in container.get("env", ()):
        value = _value(entry, container, pod, lookup, variables)
        if value is not None:
            variables[entry["name"]] = value
    return variables


def command_line(container: Object, variables: Mapping[str, str], paths: Paths) -> list[str]:
    """Command and arguments. Raises ConfigError when there is no command: there is no image to take one from."""
    if not container.get("command"):
        raise ConfigError("no command specified; the process node has no images to take one from")
    words = [*container["command"], *container.get("args", ())]
    return [paths.rewrite(expand(word, variables)) for word in words]


def _all_keys(source: Object, lookup: Lookup) -> dict[str, str]:
    kind, reference = (
        ("secrets", source["secretRef"]) if "secretRef" in source else ("configmaps", source["configMapRef"])
    )
    found = lookup(kind, reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'{kind[:-1]} "{reference["name"]}" not found')
    return {source.get("prefix", "") + key: _text(kind, value) for key, value in (found.get("data") or {}).items()}


def _value(entry: Object, container: Object, pod: Object, lookup: Lookup, variables: Mapping[str, str]) -> str | None:
    source = entry.get("valueFrom")
    if not source:
        return expand(entry.get("value", ""), variables)
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return resource(container, source["resourceFieldRef"])
    if "secretKeyRef" in source:
        return _key("secrets", source["secretKeyRef"], lookup)
    if "configMapKeyRef" in source:
        return _key("configmaps", source["configMapKeyRef"], lookup)
    raise ConfigError(f"environment variable {entry['name']}: the process node does not know {', '.join(source)}")


def _key(kind: str, reference: Object, lookup: Lookup) -> str | None:
    found = lookup(kind, reference["name"])
    if found and reference["key"] in (found.get("data") or {}):
        return _text(kind, found["data"][reference["key"]])
    if reference.get("optional"):
        return None
    if not found:
        raise ConfigError(f'{kind[:-1]} "{reference["name"]}" not found')
    raise ConfigError(f"couldn't find key {reference['key']} in {kind[:-1]} {reference['name']}")


def _text(kind: str, value: str) -> str:
    return base64.b64decode(value).decode() if kind == "secrets" else value


def field(pod: Object, path: str) -> str:
    """The downward API's `fieldRef`. Raises ConfigError for a path it does not offer."""
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(pod["metadata"].get(match[1], {}).get(match[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):  # volumes only
        pairs = pod["metadata"].get(path.partition(".")[2], {})
        return "".join(f'{key}="{value}"\n' for key, value in sorted(pairs.items()))
    if path in ("status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs"):
        return NODE_ADDRESS
    if path in ("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName"):
        part, name = path.split(".")
        return str(pod[part].get(name, ""))
    raise ConfigError(f"the process node does not know the field {path}")


def resource(container: Object, reference: Object) -> str:
    """The downward API's `resourceFieldRef`, rounded up to whole divisors; 0 when the container sets no such value."""
    kind, _, name = reference["resource"].partition(".")
    amount = container.get("resources", {}).get(kind, {}).get(name, "0")
    divisor = quantity(str(reference.get("divisor", "1"))) or Decimal(1)
    return str(math.ceil(quantity(str(amount)) / divisor))


def quantity(text: str) -> Decimal:
    """A Kubernetes quantity, such as 500m, 2Gi or 1e3."""
    match = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([mkMGTPE]|[KMGTPE]i|)", text)
    if not match:
        raise ConfigError(f"{text!r} is no quantity")
    return Decimal(match[1]) * _SUFFIXES[match[2]]
