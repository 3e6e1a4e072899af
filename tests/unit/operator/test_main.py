"""How the process is put together; tests/integration/test_operator.py and test_election.py run it."""

from __future__ import annotations

import pytest

from dreambooth_operator.__main__ import Operator, election, progress_url
from dreambooth_operator.election import Election, Terms
from dreambooth_operator.settings import SettingError, Settings
from tests.unit.operator.memory import MemoryCluster


def test_a_lease_without_an_identity_is_refused_with_what_to_set() -> None:
    with pytest.raises(SettingError, match=r"DREAMBOOTH_IDENTITY is not set; .* the pod's name"):
        election(Settings(lease=("ops", "operator")))


def test_without_a_lease_there_is_no_election() -> None:
    assert election(Settings()) is None


@pytest.mark.parametrize(
    ("pod_ip", "url"), [(None, ""), ("10.0.0.7", "http://10.0.0.7:8081"), ("fd00::7", "http://[fd00::7]:8081")]
)
def test_a_replica_says_where_it_takes_progress(pod_ip: str | None, url: str) -> None:
    assert progress_url(Settings(pod_ip=pod_ip)) == url


def test_times_keep_their_order_whatever_the_lease() -> None:
    for seconds in (3, 15, 3600):
        terms = Terms(seconds)
        assert terms.call_seconds < terms.retry_seconds < terms.renew_deadline_seconds < terms.lease_seconds


def test_what_was_elected_at_the_last_moment_is_stopped_and_the_lease_freed() -> None:
    cluster = MemoryCluster()
    chosen = Election(cluster, ("ops", "operator"), "pod-1", "", Terms(3))
    settings = Settings(health_listen=("127.0.0.1", 0), progress_listen=("127.0.0.1", 0), stop_grace_seconds=5)
    operator = Operator(cluster, settings, chosen)  # type: ignore[arg-type]
    operator.start()
    operator.stop()
    assert not chosen.holds()
    holders = [item["spec"]["holderIdentity"] for (kind, _, _), item in cluster.objects.items() if kind == "leases"]
    assert holders in ([], [""])
