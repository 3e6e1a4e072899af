"""`make demo` itself, with fewer steps: from nothing to the pictures, and back to nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from devcluster import demo
from devcluster.toolchain import cache_dir


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own with the tools that are built already, and an example of a few steps."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tools").symlink_to(cache_dir() / "tools")
    monkeypatch.setenv("DREAMBOOTH_CACHE", str(tmp_path / "cache"))
    quick = yaml.safe_load(demo.MANIFEST.read_text())
    quick["spec"]["training"] = {"steps": 4}
    monkeypatch.setattr(demo, "MANIFEST", tmp_path / "quick.yaml")
    demo.MANIFEST.write_text(yaml.safe_dump(quick))
    yield tmp_path / "cache"
    assert demo.main(["down"]) == 0
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")] == ["tools"]


def test_the_demo_ends_with_pictures_a_report_and_a_model(cache, capfd):
    assert demo.main(["up"]) == 0, capfd.readouterr().err
    said = capfd.readouterr().out
    for name in ("before", "after", "side by side", "report"):
        assert Path(re.search(rf"^  {name} +(/.*)$", said, re.MULTILINE)[1]).stat().st_size > 500
    assert re.search(r"^  model +s3://results/robot/robot-\w+-r0-\w+/robot\.safetensors$", said, re.MULTILINE)
