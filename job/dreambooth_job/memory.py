"""What the kernel says about this container's memory: its limit, and how many processes it has killed for it.

The kernel kills the largest process, the trainer, and the supervisor lives to tell; only where the kubelet asks for the
whole container to be killed (its default on cgroup v2) is it left to the operator, who sees `OOMKilled`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
_UNLIMITED = 2**60  # cgroup v1 writes a number near 2**63 for "no limit"


@dataclass(frozen=True)
class _Files:
    """Where a cgroup version keeps its counters, below the folder of the process's own group."""

    controller: str  # as /proc/self/cgroup names it; v2 has none
    mount: str
    counters: str
    limit: str


_VERSIONS = (
    _Files("", "sys/fs/cgroup", "memory.events", "memory.max"),
    _Files("memory", "sys/fs/cgroup/memory", "memory.oom_control", "memory.limit_in_bytes"),
)


def killed_for_memory(root: Path = _ROOT) -> int:
    """How many processes of this container the kernel has killed for their memory; 0 where it does not say."""
    for files, folder in _folders(root):
        with suppress(OSError, ValueError):
            counters = dict(line.split() for line in (folder / files.counters).read_text().splitlines())
            if "oom_kill" in counters:
                return int(counters["oom_kill"])
    return 0


def limit_bytes(root: Path = _ROOT) -> int | None:
    """The container's memory limit; None where there is none."""
    for files, folder in _folders(root):
        with suppress(OSError, ValueError):  # v2 writes "max" for none
            limit = int((folder / files.limit).read_text())
            return limit if limit < _UNLIMITED else None
    return None


def _folders(root: Path) -> list[tuple[_Files, Path]]:
    """The group as /proc names it, then the mount itself: a container may see only its own group, by another name."""
    lines = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    groups = {controller: path for _, names, path in (line.split(":", 2) for line in lines)
              for controller in names.split(",")}  # fmt: skip
    found = []
    for files in _VERSIONS:
        own = groups.get(files.controller, "/").lstrip("/")
        found += [(files, root / files.mount / own), (files, root / files.mount)]
    return found
