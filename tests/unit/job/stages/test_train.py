"""Around the loop: when the pod must go."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from dreambooth_job.errors import Interrupted
from dreambooth_job.interruption import Interruption
from dreambooth_job.stages import train


def test_a_stop_while_the_last_upload_is_waited_for_still_leaves_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    run = MagicMock()
    run.finish.side_effect = Interrupted("in the middle of a transfer")
    monkeypatch.setattr(train, "_Run", lambda *_: run)
    monkeypatch.setattr(train, "all_examples", lambda _: [])
    monkeypatch.setattr(train.loop, "train", lambda *_, **__: None)
    with pytest.raises(Interrupted):
        train.train(MagicMock(), MagicMock(), MagicMock(), MagicMock(), MagicMock(), Interruption())
    run.save_last.assert_called_once()
