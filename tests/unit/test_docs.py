"""The documentation says what the program does: manifests parse, links lead somewhere, every name has its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dreambooth_api import names, reasons
from dreambooth_api.names import KIND
from dreambooth_api.reasons import REASONS
from dreambooth_api.spec import TrainingJobSpec
from dreambooth_api.status import ConditionType

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
IMPORT = re.compile(r"\s*(from|import) |    \w+,$")  # also a line of a long import in parentheses


def manifests(page: Path) -> list[dict]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    documents = [document for block in blocks for document in yaml.safe_load_all(block)]
    return [d for d in documents if isinstance(d, dict) and d.get("kind") == KIND]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_manifest_in_the_docs_parses(page: Path) -> None:
    for manifest in manifests(page):
        TrainingJobSpec.model_validate(manifest["spec"])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_command_in_the_readme_is_a_make_target() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = set(re.findall(r"(?m)(?:^|`)make ([a-z0-9-]+)", (ROOT / "README.md").read_text()))
    assert said <= targets


@pytest.mark.parametrize("condition", list(ConditionType))
def test_every_condition_is_explained(condition: ConditionType) -> None:
    assert f"`{condition}`" in (ROOT / "docs/status.md").read_text()


def test_every_setting_of_the_operator_is_explained_and_no_other() -> None:
    variable = re.compile(r"DREAMBOOTH_[A-Z_]+")
    read = set(variable.findall((ROOT / "operator/dreambooth_operator/settings.py").read_text()))
    table = (ROOT / "docs/operator.md").read_text().split("\n## Settings\n")[1].split("\n## ")[0]
    said = {name for row in table.splitlines() for name in variable.findall(row.partition(" | ")[0])}
    assert said == read | {names.ENV_LOG_FORMAT}


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_is_provoked_by_a_test(reason: str) -> None:
    constant = next(name for name, value in vars(reasons).items() if value is REASONS[reason])
    uses = [line for path in TESTS for line in path.read_text().splitlines() if not IMPORT.match(line)
            and re.search(rf"\b({reason}|{constant})\b", line)]  # fmt: skip
    assert uses, f"no test provokes {reason}"


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_example_opens_with_what_it_shows(example: Path) -> None:
    assert example.read_text().startswith("# ")
