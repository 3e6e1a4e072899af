"""The kernel's own counters, in both versions of cgroups, inside a container's view and outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_job.memory import killed_for_memory, limit_bytes

V2_EVENTS = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n"
V1_CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
V1_GROUPS = "12:cpu,cpuacct:/kubepods/pod1/c\n4:memory:/kubepods/pod1/c\n0::/\n"

# What /proc/self/cgroup says, then files below /sys/fs/cgroup -> kills, limit
VIEWS = {
    "v2, its own namespace": ("0::/\n", {"memory.events": V2_EVENTS, "memory.max": "1073741824\n"}, 2, 1 << 30),
    "v2, no limit": ("0::/\n", {"memory.events": V2_EVENTS, "memory.max": "max\n"}, 2, None),
    "v2, the host's path": (
        "0::/kubepods/c\n",
        {"kubepods/c/memory.events": V2_EVENTS, "kubepods/c/memory.max": "1073741824\n"}, 2, 1 << 30,
    ),
    "v1, the host's path": (
        V1_GROUPS,
        {"memory/kubepods/pod1/c/memory.oom_control": V1_CONTROL,
         "memory/kubepods/pod1/c/memory.limit_in_bytes": "1073741824\n"}, 2, 1 << 30,
    ),
    "v1, only its own group is mounted": (
        V1_GROUPS,
        {"memory/memory.oom_control": V1_CONTROL, "memory/memory.limit_in_bytes": "9223372036854771712\n"}, 2, None,
    ),
    "v1 of an old kernel, which does not count": (
        V1_GROUPS, {"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}, 0, None,
    ),
    "nothing mounted": ("", {}, 0, None),
}  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
def test_kills_and_limit_are_found(view: str, tmp_path: Path) -> None:
    groups, files, kills, limit = VIEWS[view]
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{n}": t for n, t in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert killed_for_memory(tmp_path) == kills
    assert limit_bytes(tmp_path) == limit
