from __future__ import annotations

import os
import subprocess
import sys

import pytest

from devcluster.cluster import scratch_folder, wait_until
from devcluster.s3 import S3Access, _split
from devcluster.supervisor import Running, down, status

OWNER = """
import sys, time
from pathlib import Path
from devcluster.cluster import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def test_a_scratch_folder_goes_with_its_block(tmp_path):
    with scratch_folder(tmp_path / "a b") as folder:
        (folder / "file").touch()
    assert not folder.exists()


def test_folders_of_the_living_stay_and_those_of_the_dead_go(tmp_path):
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path], stdout=subprocess.PIPE, text=True, env=environ
    ) as owner:
        left = tmp_path / owner.stdout.readline().strip()
        with scratch_folder(tmp_path):
            assert left.exists()
        owner.kill()
    with scratch_folder(tmp_path):
        assert not left.exists()


def test_waiting_ends_with_the_name_of_what_did_not_come():
    with pytest.raises(TimeoutError, match="godot: not there after 0 s"):
        wait_until(lambda: False, "godot", 0)


def test_a_folder_without_a_daemon_is_no_cluster_and_can_be_removed(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    Running(str(folder), "https://127.0.0.1:1", "kubectl", S3Access("http://127.0.0.1:2", "id", "key")).write()
    assert Running.read(folder).s3.secret_key == "key"
    assert status(folder) is None
    down(folder)
    assert not folder.exists()
    down(folder)


@pytest.mark.parametrize(("uri", "parts"), [("s3://", ("", "")), ("s3://b", ("b", "")), ("s3://b/k/x", ("b", "k/x"))])
def test_uris_are_split_at_the_bucket(uri, parts):
    assert _split(uri) == parts


def test_any_other_uri_is_refused():
    with pytest.raises(ValueError, match="expected s3://"):
        _split("photos/robot")
