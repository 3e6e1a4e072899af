"""The first log line, the first report and the downloads do not wait for torch."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from dreambooth_job.errors import Interrupted
from dreambooth_job.interruption import Interruption
from dreambooth_job.libraries import Libraries

HEAVY = ("torch", "diffusers", "transformers", "peft")


@pytest.mark.parametrize("module", ["dreambooth_job.__main__", "dreambooth_job.trainer", "dreambooth_job.pipeline"])
def test_what_runs_before_and_beside_the_downloads_imports_no_torch(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                             env={"PYTHONPATH": ":".join(sys.path)}).stdout  # fmt: skip
    assert printed.strip() == "[]"


def test_an_import_statement_after_the_wait_finds_everything_there() -> None:
    Libraries().wait(Interruption())
    assert "dreambooth_job.stages.train" in sys.modules
    assert "torch" in sys.modules


def test_a_stop_does_not_wait_for_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = threading.Event()
    monkeypatch.setattr("dreambooth_job.libraries.importlib.import_module", lambda name: loaded.wait(60))
    interruption = Interruption()
    interruption.request()
    with pytest.raises(Interrupted):
        Libraries().wait(interruption)
    loaded.set()


def test_a_failed_import_is_told_as_it_was_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreambooth_job.libraries.MODULES", ("dreambooth_job.not_there",))
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        Libraries().wait(Interruption())
