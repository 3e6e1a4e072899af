"""Downloads of one object with verification against boto3's own, and whether each notices one flipped byte.

    python benchmarks/transfer.py [--size-mib 512] [--rounds 5]

The server runs on the same machine, so ratios mean something and absolute figures little. Both clients take turns, one
round each; the table shows the median. The second table sends one download through a proxy that flips a single bit.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig

from devcluster import toolchain
from devcluster.s3 import S3Server
from dreambooth_job.errors import InputCorrupt
from dreambooth_job.storage.client import StorageSettings, connect
from dreambooth_job.storage.digests import sha256_of
from dreambooth_job.storage.s3 import MIB, open_store
from tests.faults.proxy import flip, proxy

BUCKET, KEY = "models", "base.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = S3Server(_versitygw(), folder / "s3")
        server.start()
        try:
            _run(server, folder, arguments.size_mib * MIB, arguments.rounds)
        finally:
            server.stop()


def _versitygw() -> Path:
    given = os.environ.get("DREAMBOOTH_VERSITYGW")
    return Path(given) if given else toolchain.tools().versitygw


def _run(server: S3Server, folder: Path, size_bytes: int, rounds: int) -> None:
    settings = _settings(server, folder, server.access.endpoint)
    connect(settings).create_bucket(Bucket=BUCKET)
    sha256 = _upload(settings, folder / "source", size_bytes)
    clients = _clients(settings, folder / "target", sha256)
    print(f"download of {size_bytes // MIB} MiB, median of {rounds}\n\n| client | MB/s | cpu-s per GB | ratio |")
    print("|---|---|---|---|")
    seconds = _measure(clients, folder / "target", rounds)
    base = statistics.median(wall for wall, _ in seconds["boto3 download_file"])
    for name, taken in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*taken, strict=True))
        print(f"| {name} | {size_bytes / wall / 1e6:.0f} | {cpu / size_bytes * 1e9:.2f} | {base / wall:.2f} |")
    print("\n| client | one flipped bit |\n|---|---|")
    with proxy(server.access.endpoint) as faulty:
        for name, download in _clients(_settings(server, folder, faulty.endpoint), folder / "target", sha256).items():
            faulty.calm()
            faulty.add(flip(1000), method="GET", key=KEY, count=float("inf"))
            print(f"| {name} | {_verdict(download, folder / 'target', sha256)} |")


def _settings(server: S3Server, folder: Path, endpoint: str) -> StorageSettings:
    (folder / "credentials").mkdir(exist_ok=True)
    for key, value in server.access.secret_data().items():
        (folder / "credentials" / key).write_text(value)
    return StorageSettings(endpoint, None, folder / "credentials")


def _upload(settings: StorageSettings, source: Path, size_bytes: int) -> str:
    with source.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(os.urandom(MIB))
    open_store(BUCKET, settings).put(source, KEY)
    sha256 = sha256_of(source)
    source.unlink()
    return sha256


def _clients(settings: StorageSettings, target: Path, sha256: str) -> dict[str, Callable[[], Any]]:
    store, plain = open_store(BUCKET, settings), _boto3(settings)
    config = TransferConfig(preferred_transfer_client="classic")
    return {
        "boto3 download_file": lambda: plain.download_file(BUCKET, KEY, str(target), Config=config),
        "store, the store's CRC64": lambda: store.get(store.head(KEY), target),
        "store, SHA-256": lambda: store.get(store.head(KEY), target, sha256),
    }


def _boto3(settings: StorageSettings) -> Any:
    """As a newcomer would write it."""
    keys = [(settings.credentials_dir / f"AWS_{name}").read_text() for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")]
    return boto3.client("s3", "us-east-1", None, True, None, settings.endpoint, *keys)


def _measure(clients: dict[str, Callable[[], Any]], target: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each round; the first, unmeasured one fills the page cache."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
    for number in range(rounds + 1):
        for name, download in clients.items():
            target.unlink(missing_ok=True)
            cpu, wall = _cpu_seconds(), time.perf_counter()
            download()
            taken = time.perf_counter() - wall, _cpu_seconds() - cpu
            seconds[name] += [taken] if number else []
    return seconds


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _verdict(download: Callable[[], Any], target: Path, sha256: str) -> str:
    target.unlink(missing_ok=True)
    try:
        download()
    except InputCorrupt:
        return "refused, no file" if not target.exists() else "refused, file left"
    return "not damaged" if sha256_of(target) == sha256 else "accepted: the file is damaged"


if __name__ == "__main__":
    main()
