"""Prometheus metrics, all named `dreambooth_...`; endpoints.py serves them."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily

REGISTRY = CollectorRegistry()
APPLY_TO_JOB_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)

QUEUE_DEPTH = Gauge("dreambooth_queue_depth", "Keys waiting for a worker", registry=REGISTRY)
RECONCILE_SECONDS = Histogram(
    "dreambooth_reconcile_seconds", "Duration of one reconcile", ["result"], registry=REGISTRY
)
WATCH_RESTARTS = Counter(
    "dreambooth_watch_restarts_total", "Watches that failed or ended early", ["resource"], registry=REGISTRY
)
UNREADABLE = Counter(
    "dreambooth_unreadable_objects_total", "Objects that could not be read", ["resource"], registry=REGISTRY
)
API_CALLS = Counter(
    "dreambooth_api_calls_total", "Calls to the API server", ["verb", "resource", "code"], registry=REGISTRY
)
APPLY_TO_JOB = Histogram(
    "dreambooth_apply_to_job_seconds", "From the TrainingJob's creation to its first Job's",
    buckets=APPLY_TO_JOB_BUCKETS, registry=REGISTRY,
)  # fmt: skip
LEADER = Gauge("dreambooth_leader", "1 while this process holds the Lease, or needs none", registry=REGISTRY)
LEASE_TRANSITIONS = Gauge(
    "dreambooth_lease_transitions", "How often the Lease has changed hands, as last seen", registry=REGISTRY
)
PROGRESS_POSTS = Counter("dreambooth_progress_posts_total", "Progress records received", ["code"], registry=REGISTRY)


def count_call(verb: str, resource: str, code: str) -> None:
    API_CALLS.labels(verb, resource, code).inc()


class JobsByState:
    """`dreambooth_jobs{state}`, counted when it is asked for."""

    def __init__(self, states: Callable[[], Iterable[str]]) -> None:
        self._states = states

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("dreambooth_jobs", "TrainingJobs by state", labels=["state"])
        for state, count in Count(self._states()).items():
            family.add_metric([state.split(":")[0]], count)
        yield family
