"""Commands around the job that make this machine as narrow as a pod: a small volume, a read-only root, a first process.

They need user namespaces, no rights; where a machine forbids those the tests that use them are skipped and say so.
"""

from __future__ import annotations

import subprocess

import pytest

_SCRATCH = 'mount -t tmpfs -o "size=$1k,mode=777" scratch {scratch}'
# Mount points are taken from mountinfo, the deepest first; what a mount forbids already stays forbidden.
_READ_ONLY = """
mount --bind {scratch}/.. {scratch}/..
awk '{{print $5}}' /proc/self/mountinfo | sort -r | while read -r point; do
  case "$point" in */scratch/..|"$(dirname {scratch})"*|/proc*|/sys*|/dev|/dev/*) ;;
  *) mount -o remount,bind,ro "$point" ;; esac
done
mount -t tmpfs -o ro shm /dev/shm
"""
STRANGER = 54321  # a user that no passwd file knows

needs_namespaces = pytest.mark.skipif(
    subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode != 0,
    reason="this machine allows no user namespaces",
)


def small_volume(size_kib: int) -> list[str]:
    """Scratch as an emptyDir of medium Memory with this sizeLimit."""
    return ["unshare", "-Urm", "sh", "-ec", f'{_SCRATCH}; shift; exec "$@"', "box", str(size_kib)]


def read_only_root(size_kib: int) -> list[str]:
    """Nothing can be written but scratch and the folder of the termination message, by a user without a name."""
    script = f'{_READ_ONLY}{_SCRATCH}; shift; exec unshare -U --map-user={STRANGER} --map-group={STRANGER} "$@"'
    return ["unshare", "-Urm", "sh", "-ec", script, "box", str(size_kib)]


def first_process() -> list[str]:
    """The job is process 1 of its own namespace, for which the kernel keeps no default action of a signal."""
    return ["unshare", "-Urpf", "--kill-child"]
