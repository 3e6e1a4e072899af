from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from devcluster import shim
from devcluster.cluster import wait_until
from devcluster.processes import DidNotStart, Identity, start, start_on_free_ports


def run(script: str, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-I", "-S", shim.__file__, str(os.getpid()), "/bin/sh", "-c", script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize(
    ("script", "exit_code"), [("exit 0", 0), ("exit 66", 66), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_the_shim_leaves_with_the_code_of_the_command(script, exit_code):
    with run(script) as process:
        assert process.wait(10) == exit_code


def test_the_shim_passes_sigterm_on():
    with run("trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done") as process:
        process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 7


ESCAPE = "setsid sleep 4321 & echo $!; while :; do sleep 0.05; done"


def test_the_shim_kills_what_has_a_session_of_its_own_too():
    with run(ESCAPE) as process:
        escaped = Identity.of(int(process.stdout.readline()))
        process.send_signal(shim.KILL_ALL)
        assert process.wait(10) == 137
    assert not escaped.alive()


def test_programs_die_with_an_owner_that_is_killed(tmp_path):
    owner_code = (
        "import sys, time; from pathlib import Path; from devcluster.processes import start;"
        f"start('program', ['/bin/sh', '-c', {ESCAPE!r}], Path(sys.argv[1])); time.sleep(600)"
    )
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", owner_code, tmp_path], env=environ) as owner:
        try:
            wait_until(lambda: (tmp_path / "program.log").exists() and (tmp_path / "program.log").read_text(), "start")
            escaped = Identity.of(int((tmp_path / "program.log").read_text()))
        finally:
            owner.kill()
    wait_until(lambda: not escaped.alive(), "the end of the escaped process", 10)


def test_a_program_that_cannot_start_says_so(tmp_path):
    program = start("etcd", ["/no/such/program"], tmp_path)
    with pytest.raises(DidNotStart, match=r"etcd ended with exit code 127(.|\n)*No such file"):
        program.wait_until(lambda: False, 10)


def test_a_program_that_is_never_ready_is_named_with_its_log(tmp_path):
    program = start("etcd", ["/bin/sh", "-c", "echo waiting for godot; sleep 4321"], tmp_path)
    with pytest.raises(DidNotStart, match=r"etcd was not ready(.|\n)*etcd\.log"):
        program.wait_until(lambda: False, 0.1)
    program.stop()
    assert program.process.returncode == 143


def test_a_reused_process_number_is_not_the_same_process():
    process = subprocess.Popen(["sleep", "4321"])
    identity = Identity.of(process.pid)
    stranger = dataclasses.replace(identity, start_ticks=identity.start_ticks - 1)
    assert not stranger.send(signal.SIGKILL)
    assert identity.alive()
    assert identity.send(signal.SIGKILL)
    process.wait()
    assert not identity.alive()
    assert not identity.send(signal.SIGKILL)


def test_an_identity_survives_its_file(tmp_path):
    mine = Identity.of(os.getpid())
    (tmp_path / "owner").write_text(mine.to_json())
    assert Identity.read(tmp_path / "owner") == mine


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}', "[]"])
def test_a_damaged_identity_file_names_nobody(tmp_path, content):
    (tmp_path / "owner").write_text(content)
    assert Identity.read(tmp_path / "owner") is None


def test_a_lost_race_for_a_port_is_run_again_with_another():
    tried, cleaned = [], []

    def start_on(port):
        tried.append(port)
        if len(tried) < 3:
            raise DidNotStart("bind: address already in use")

    assert start_on_free_ports(1, start_on, lambda: cleaned.append(1)) == tried[-1:]
    assert len(cleaned) == 2


def test_any_other_failure_is_not_tried_again():
    def start_on(port):
        raise DidNotStart("no space left on device")

    with pytest.raises(DidNotStart, match="no space"):
        start_on_free_ports(1, start_on, lambda: None)
