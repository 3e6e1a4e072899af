"""What a TrainingJob may say, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from dreambooth_api.crd import HEADER, crd
from dreambooth_api.names import API_VERSION, KIND
from dreambooth_api.pages import pages
from dreambooth_api.spec import TrainingJobSpec
from tests.wrong_manifests import WRONG, Wrong, good_spec

ROOT = Path(__file__).parents[3]
CRD_FILE = ROOT / "helm/dreambooth-operator/files/crds/trainingjobs.yaml"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: w.name)
def test_wrong_spec_is_refused_with_the_field_named(wrong: Wrong) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainingJobSpec.model_validate(wrong.spec())
    assert wrong.names in str(caught.value)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_example_parses(example: Path) -> None:
    manifest = yaml.safe_load(example.read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == (API_VERSION, KIND)
    TrainingJobSpec.model_validate(manifest["spec"])


def test_least_spec_means_lora_and_leaves_the_rest_to_the_job() -> None:
    spec = TrainingJobSpec.model_validate(good_spec())
    assert spec.method.name == "lora"
    assert spec.training.steps is None
    assert spec.run_policy.backoff_limit == 3


def test_spec_survives_the_way_through_json() -> None:
    spec = TrainingJobSpec.model_validate(good_spec())
    assert TrainingJobSpec.model_validate_json(spec.model_dump_json(by_alias=True)) == spec


def test_chart_has_the_current_crd() -> None:
    text = CRD_FILE.read_text()
    assert text.startswith(HEADER)
    assert yaml.safe_load(text) == crd(), "run `make crd`"


def test_every_field_is_explained_and_every_text_is_bounded() -> None:
    def visit(schema: dict, path: str) -> None:
        for name, child in schema.get("properties", {}).items():
            here = f"{path}.{name}"
            if not here.startswith((".spec.runtime.tolerations", ".status")):
                assert child.get("description"), f"{here} has no description"
            for node in (child, child.get("items", {})):
                if node.get("type") == "string" and "enum" not in node:
                    assert "maxLength" in node, f"{here} has no maxLength"
                if node.get("type") == "array":
                    assert "maxItems" in node, f"{here} has no maxItems"
            visit(child, here)
            visit(child.get("items", {}), f"{here}[]")

    properties = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    visit({"properties": {"spec": properties["spec"]["properties"] and properties["spec"]}}, "")
    visit({"properties": {"status": {**properties["status"], "description": "status"}}}, "")


@pytest.mark.parametrize("name", sorted(pages()))
def test_generated_page_is_current(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == pages()[name], "run `make docs`"
