"""A standby's answer to progress: it passes the record on to the leader, whose address the Lease names.

A Service spreads connections over all replicas, and only the leader knows the pods. The token goes along unread; the
leader alone checks it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from dreambooth_api import names
from dreambooth_operator import metrics
from dreambooth_operator.endpoints import Answer, Request, body_length

TIMEOUT_SECONDS = 3.0  # less than the job waits for us
ANSWER_LIMIT_BYTES = 1024
PASSED_ON = "Dreambooth-Passed-On"  # a record travels one hop: what the Lease says may be out of date


class Relay:
    def __init__(self, leader_url: Callable[[], str]) -> None:
        self._leader_url = leader_url

    def post(self, request: Request) -> Answer:
        answer = self._post(request)
        metrics.PROGRESS_POSTS.labels(str(answer.code)).inc()
        return answer

    def _post(self, request: Request) -> Answer:
        length = body_length(request, names.PROGRESS_BODY_LIMIT_BYTES)
        if isinstance(length, Answer):
            return length
        leader = urlsplit(self._leader_url())
        if request.headers.get(PASSED_ON) or leader.scheme != "http" or not leader.hostname:
            return Answer(503, "no replica is known to lead at the moment\n")
        headers = {PASSED_ON: "1", "Authorization": request.headers.get("Authorization", "")}
        try:
            with closing(HTTPConnection(leader.hostname, leader.port, timeout=TIMEOUT_SECONDS)) as connection:
                connection.request("POST", names.PROGRESS_PATH, request.read(length), headers)
                response = connection.getresponse()
                return Answer(response.status, response.read(ANSWER_LIMIT_BYTES).decode(errors="replace"))
        except (OSError, HTTPException, ValueError):  # ValueError: a port that is none
            return Answer(503, "the leading replica does not answer\n")
