"""A stand-in for the training job: a real process that keeps the pod's contract and ends when the test says so.

    python stand_in_job.py <control folder>

It reports progress until `<control folder>/<namespace>/<name>.end` holds an exit code, or SIGTERM comes; then it
empties its scratch folder and leaves its last words. Nothing but the standard library, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path
from types import FrameType
from typing import Any

TOTAL_STEPS = 800
REASONS = {0: "Completed", 70: "StorageDenied", 75: "StorageUnavailable", 143: "Interrupted"}
asked_to_stop = False


def on_sigterm(number: int, frame: FrameType | None) -> None:
    global asked_to_stop
    asked_to_stop = True


def report(sequence: int, step: int) -> None:
    url, token = os.environ.get("DREAMBOOTH_PROGRESS_URL"), os.environ.get("DREAMBOOTH_PROGRESS_TOKEN")
    if not url or not token:
        return
    body = {"sequence": sequence, "stage": "train", "step": step, "totalSteps": TOTAL_STEPS, "loss": 0.125,
            "etaSeconds": 90, "checkpointStep": 100}  # fmt: skip
    headers = {"Authorization": f"Bearer {Path(token).read_text()}"}
    try:
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=2).close()
    except OSError as error:
        print("report lost:", error, flush=True)


def end(exit_code: int, run: dict[str, Any], scratch: Path) -> int:
    for path in scratch.iterdir():
        path.unlink()
    outcome: dict[str, Any] = {
        "reason": REASONS.get(exit_code, "InternalError"),
        "message": "Said by the stand-in.",
        "step": TOTAL_STEPS if exit_code == 0 else 150,
        "totalSteps": TOTAL_STEPS,
        "checkpointStep": 150,
        "purge": {"files": 1, "sizeBytes": 8, "complete": True},
    }
    if exit_code == 0:
        manifest = run["spec"]["output"]["uri"] + "manifest.json"
        outcome["result"] = {"uri": manifest, "manifestSha256": "a" * 64, "artifacts": []}
    Path(os.environ["DREAMBOOTH_TERMINATION_MESSAGE"]).write_text(json.dumps(outcome))
    return exit_code


def main() -> int:
    signal.signal(signal.SIGTERM, on_sigterm)
    run = json.loads(os.environ["DREAMBOOTH_RUN"])
    scratch = Path(os.environ["DREAMBOOTH_SCRATCH"])
    (scratch / "picture").write_bytes(b"8 bytes.")
    verdict = Path(sys.argv[1]) / run["namespace"] / f"{run['name']}.end"
    sequence = 0
    while not asked_to_stop and not verdict.exists():
        if sequence % 10 == 0:
            report(sequence, 100 + sequence)
        sequence += 1
        time.sleep(0.05)
    return end(143 if asked_to_stop else int(verdict.read_text()), run, scratch)


if __name__ == "__main__":
    sys.exit(main())
