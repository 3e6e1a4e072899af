"""The one list of rights, and the pages that repeat it."""

from __future__ import annotations

import re
from pathlib import Path

from dreambooth_operator.rights import RIGHTS, Scope, rules

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "operator.md"


def test_the_page_lists_exactly_these_rights() -> None:
    section = PAGE.read_text().split("\n## Rights\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert rows == [f"| {right} | {right.scope} | {right.reason} |" for right in RIGHTS]


def test_rules_hold_every_right_once() -> None:
    found = [
        (group, resource, verb, rule.get("resourceNames"))
        for rule in rules(RIGHTS, "ours")
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    named = {Scope.LEASE: ["ours"]}
    assert sorted(found) == sorted((r.group, r.resource, r.verb, named.get(r.scope)) for r in RIGHTS)


def test_the_operator_may_neither_read_secrets_nor_make_pods() -> None:
    allowed = {(right.resource, right.verb) for right in RIGHTS}
    assert not [resource for resource, _ in allowed if resource in ("secrets", "configmaps", "nodes", "*")]
    assert {verb for resource, verb in allowed if resource == "pods"} == {"list", "watch"}
    assert "*" not in {verb for _, verb in allowed}


def test_the_threat_model_leans_on_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)", (ROOT / "docs" / "threat-model.md").read_text()))
    files = list((ROOT / "tests").rglob("test_*.py"))
    known = {path.stem for path in files} | {
        name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert named
    assert named <= known
