"""From the end of the leading operator to the first status that its standby writes, in seconds.

    python benchmarks/takeover.py [--rounds 5]

Two operators as processes of their own, with the default Lease, on a real API server. The leader gets SIGTERM, as from
its kubelet, or SIGKILL, as if its node were lost; the moment is random, for the time depends on when both had looked at
the Lease last. A TrainingJob is applied when the Lease has changed hands.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path

from devcluster.cluster import Cluster
from dreambooth_api.crd import crd
from dreambooth_operator.settings import Settings
from tests.integration.operator_kit import eventually
from tests.integration.test_election import Replicas

NAMESPACE = "takeover"
LEASE_SECONDS = Settings().lease_seconds
PATIENCE_SECONDS = 4 * LEASE_SECONDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name, Cluster(Path(name) / "cluster") as cluster:
        cluster.install_crd(crd())
        cluster.add_namespace(NAMESPACE)
        replicas = Replicas(cluster, NAMESPACE, Path(name))
        try:
            replicas.start_both(f"{LEASE_SECONDS:g}")
            print(f"Lease of {LEASE_SECONDS:g} s, {rounds} rounds, {os.cpu_count()} cores; in seconds.\n")
            print("| the leader gets | fastest | median | slowest |\n| --- | --- | --- | --- |")
            for number in (signal.SIGTERM, signal.SIGKILL):
                seen = [_take_over(replicas, number) for _ in range(rounds)]
                print(
                    f"| {number.name} | {min(seen):.1f} | {statistics.median(seen):.1f} | {max(seen):.1f} |", flush=True
                )
        finally:
            replicas.stop()


def _take_over(replicas: Replicas, number: signal.Signals) -> float:
    leader = replicas.leader()
    standby = "two" if leader == "one" else "one"
    time.sleep(random.uniform(0, 3))
    started = time.monotonic()
    replicas.signal(leader, number)
    eventually(f"{standby} leads", lambda: replicas.leader() == standby, PATIENCE_SECONDS)
    replicas.kit.apply()
    eventually("it works", replicas.kit.status, PATIENCE_SECONDS)
    seconds = time.monotonic() - started
    replicas.kit.delete()
    replicas.exit_code(leader)
    replicas.start(leader, f"{LEASE_SECONDS:g}")
    return seconds


if __name__ == "__main__":
    main()
