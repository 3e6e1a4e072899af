"""From the start of `dreambooth-job` to its first log line, report and training step: seconds and processor time.

    python benchmarks/startup.py [--rounds 3]

With the repository beside it, an S3 server is started and the toy base is trained for one step. Where there is only
the job (inside its image: `... --entrypoint python dreambooth-job - < benchmarks/startup.py`) the store is a port that
nobody answers, and the table ends with the libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MOMENTS = ("first log line", "first progress report", "inputs there", "torch and diffusers imported", "model loaded",
           "first training step")  # fmt: skip
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
POLL_SECONDS = 0.005

Note = Callable[[str], None]  # a moment, when it has come


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name, _store(Path(name)) as storage:
        measure(Path(name) / "warm", storage)  # reads the files once, so that the page cache is as warm for each round
        seen = [measure(Path(name) / f"round-{number}", storage) for number in range(rounds)]
    print(
        f"{os.cpu_count()} processors, {platform.machine()}, Python {platform.python_version()}, median of {rounds}\n"
    )
    print("| moment | seconds | processor seconds |\n| --- | --- | --- |")
    for moment in MOMENTS:
        if all(moment in times for times in seen):
            wall, cpu = (statistics.median(times[moment][i] for times in seen) for i in (0, 1))
            print(f"| {moment} | {wall:.2f} | {cpu:.2f} |")


@contextmanager
def _store(folder: Path) -> Iterator[Mapping[str, str]]:
    """A bucket with the toy base and its pictures; without the repository, an address where nobody answers."""
    try:
        from devcluster import toolchain
        from devcluster.s3 import S3Server
    except ModuleNotFoundError:
        yield {"endpoint": "http://127.0.0.1:9", "access": "none", "secret": "none"}
        return
    given = os.environ.get("DREAMBOOTH_VERSITYGW")
    server = S3Server(Path(given) if given else toolchain.tools().versitygw, folder / "s3")
    server.start()
    try:
        _upload(server.access.client())
        access = server.access
        yield {"endpoint": access.endpoint, "access": access.access_key, "secret": access.secret_key, "step": "yes"}
    finally:
        server.stop()


def _upload(client: object) -> None:
    root = Path(__file__).parents[1]
    client.create_bucket(Bucket="bench")
    for folder, prefix in ((root / "toyworld/base", "base/"), (root / "examples/pictures/robot", "robot/")):
        for path in folder.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "bench", prefix + path.relative_to(folder).as_posix())


def measure(folder: Path, storage: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """One attempt in a process of its own: (seconds, processor seconds) of its two processes, by moment."""
    times: dict[str, tuple[float, float]] = {}
    for below in ("scratch", "credentials"):
        (folder / below).mkdir(parents=True)
    (folder / "credentials" / "AWS_ACCESS_KEY_ID").write_text(storage["access"])
    (folder / "credentials" / "AWS_SECRET_ACCESS_KEY").write_text(storage["secret"])
    (folder / "token").write_text("token")
    with _operator(lambda: note("first progress report")) as url:
        started = time.monotonic()
        job = subprocess.Popen(
            [sys.executable, "-m", "dreambooth_job"], env=_environment(folder, storage, url),
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

        def note(moment: str) -> None:
            times.setdefault(moment, (time.monotonic() - started, _processor_seconds(job.pid)))

        metrics = folder / "scratch/result/metrics.jsonl"
        threading.Thread(target=_watch, args=(metrics, job, note), daemon=True).start()
        for line in job.stderr or ():
            note("first log line")
            _read(json.loads(line) if line.startswith("{") else {}, note)
            if "libraries_imported" in line and "step" not in storage:
                job.terminate()
    if job.wait() not in (0, 143):
        sys.exit(f"the job ended with exit code {job.returncode}")
    return times


def _read(line: Mapping[str, object], note: Note) -> None:
    if line.get("event") == "libraries_imported":
        note("torch and diffusers imported")
    if line.get("event") == "stage_finished" and line.get("stage") in ("fetch", "load"):
        note({"fetch": "inputs there", "load": "model loaded"}[str(line["stage"])])


def _watch(metrics: Path, job: subprocess.Popen[str], note: Note) -> None:
    """The loss of the only step is written right after it, if it comes to that."""
    while job.returncode is None and not metrics.exists():
        time.sleep(POLL_SECONDS)
    if metrics.exists():
        note("first training step")


def _processor_seconds(supervisor: int) -> float:
    """Of the job's first process and of those it started."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(stat.parent.name) == supervisor or int(fields[1]) == supervisor:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_SECOND


@contextmanager
def _operator(reported: Callable[[], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            reported()
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/progress"
    finally:
        server.shutdown()


def _environment(folder: Path, storage: Mapping[str, str], url: str) -> dict[str, str]:
    spec = {
        "baseModel": {"uri": "s3://bench/base/"},
        "subjects": [{"token": "sks", "className": "robot", "images": {"uri": "s3://bench/robot/"}}],
        "output": {"uri": f"s3://bench/{folder.name}/"},
        "training": {"steps": 1, "batchSize": 1},
        "runtime": {"gpu": {"count": 0}},
        "storage": {"endpoint": storage["endpoint"]},
    }
    run = {"name": "bench", "namespace": "bench", "uid": "11111111-0000", "runIndex": 0, "generation": 1, "spec": spec}
    return os.environ | {
        "DREAMBOOTH_RUN": json.dumps(run),
        "DREAMBOOTH_POD_UID": folder.name,
        "DREAMBOOTH_SCRATCH": str(folder / "scratch"),
        "DREAMBOOTH_CREDENTIALS": str(folder / "credentials"),
        "DREAMBOOTH_TERMINATION_MESSAGE": str(folder / "message"),
        "DREAMBOOTH_PROGRESS_URL": url,
        "DREAMBOOTH_PROGRESS_TOKEN": str(folder / "token"),
        "DREAMBOOTH_LOG_FORMAT": "json",
    }


if __name__ == "__main__":
    main()
