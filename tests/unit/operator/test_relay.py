"""A standby passes progress on: to the leader that the Lease names, once, bounded, and never anywhere else."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from dreambooth_api import names
from dreambooth_operator.endpoints import Answer, Request, Server, progress_routes, serve
from dreambooth_operator.relay import Relay

BODY = json.dumps({"sequence": 1, "stage": "train", "step": 3, "totalSteps": 9}).encode()


@dataclass
class Pair:
    """A standby, and the leader that its Lease names."""

    leader_url: str = ""
    answer: Answer = field(default_factory=lambda: Answer(204))
    taken: list[tuple[str, bytes]] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)

    def __post_init__(self) -> None:
        for take in (self.take, Relay(lambda: self.leader_url).post):
            self.servers.append(serve(("127.0.0.1", 0), progress_routes(take)))
        self.leader_url = self.url(0)

    def take(self, request: Request) -> Answer:
        body = request.read(int(request.headers["Content-Length"]))
        self.taken.append((request.headers["Authorization"], body))
        return self.answer

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.servers[number].port}"

    def post(self, body: bytes = BODY) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.servers[1].port, timeout=10)
        connection.request("POST", names.PROGRESS_PATH, body, {"Authorization": "Bearer t"})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    for server in pair.servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("answer", [Answer(204), Answer(403, "not the running pod\n"), Answer(503, "later\n")])
def test_record_and_token_reach_the_leader_and_its_answer_comes_back(pair: Pair, answer: Answer) -> None:
    pair.answer = answer
    assert pair.post() == (answer.code, answer.text)
    assert pair.taken == [("Bearer t", BODY)]


@pytest.mark.parametrize(
    "url", ["", "nonsense", "https://10.0.0.1:8081", "file:///etc/passwd", "http://127.0.0.1:1", "http://h:x"]
)
def test_without_a_leader_that_answers_it_says_so(pair: Pair, url: str) -> None:
    pair.leader_url = url
    assert pair.post()[0] == 503
    assert pair.taken == []


def test_a_lease_that_names_a_standby_makes_no_circle(pair: Pair) -> None:
    pair.leader_url = pair.url(1)
    assert pair.post()[0] == 503


def test_too_much_is_refused_before_it_is_read(pair: Pair) -> None:
    assert pair.post(b" " * (names.PROGRESS_BODY_LIMIT_BYTES + 1))[0] == 413
    assert pair.taken == []


def test_a_long_answer_is_cut(pair: Pair) -> None:
    pair.answer = Answer(500, "x" * 100_000)
    assert pair.post() == (500, "x" * 1024)
