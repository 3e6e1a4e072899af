"""values.yaml, its schema and the chart's other files agree with each other and with the program."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from prometheus_client import generate_latest

from dreambooth_api.names import API_VERSION, KIND, PLURAL
from dreambooth_api.spec import TrainingJobSpec
from dreambooth_operator import metrics
from dreambooth_operator.settings import Settings
from tests.chart.conftest import CHART

Schema = dict[str, Any]

TEXT = (CHART / "values.yaml").read_text()
VALUES = yaml.safe_load(TEXT)
SCHEMA: Schema = json.loads((CHART / "values.schema.json").read_text())
ABOUT = yaml.safe_load((CHART / "Chart.yaml").read_text())


def resolved(schema: Schema) -> Schema:
    reference = schema.get("$ref")
    return SCHEMA["definitions"][reference.rsplit("/", 1)[-1]] if reference else schema


def schema_paths(schema: Schema, path: str = "") -> Iterator[str]:
    for name, child in resolved(schema).get("properties", {}).items():
        yield f"{path}.{name}"
        yield from schema_paths(child, f"{path}.{name}")


def value_paths(values: Any, schema: Schema, path: str = "") -> Iterator[str]:
    """Down to where Kubernetes' own objects begin."""
    properties = resolved(schema).get("properties")
    for name, child in values.items() if properties and isinstance(values, dict) else ():
        yield f"{path}.{name}"
        yield from value_paths(child, properties[name], f"{path}.{name}")


def test_every_value_is_in_the_schema_and_every_schema_entry_is_a_value() -> None:
    assert sorted(value_paths(VALUES, SCHEMA)) == sorted(schema_paths(SCHEMA))


def test_no_object_of_ours_takes_unknown_names() -> None:
    def visit(schema: Schema, path: str) -> None:
        if "properties" in schema and path != ".properties.global":  # a parent chart shares its own there
            assert schema.get("additionalProperties") is False, path
        for name, child in schema.items():
            if isinstance(child, dict):
                visit(child, f"{path}.{name}")

    visit(SCHEMA, "")


def test_every_value_is_explained() -> None:
    lines = TEXT.splitlines()

    def visit(node: yaml.MappingNode, schema: Schema, path: str) -> None:
        for key, value in node.value:
            above = key.start_mark.line - 1
            while above > 0 and lines[above].lstrip().startswith("# ") and "# -- " not in lines[above]:
                above -= 1
            assert "# -- " in lines[above], f"{path}.{key.value} has no comment"
            child = resolved(resolved(schema)["properties"][key.value])
            if "properties" in child:
                visit(value, child, f"{path}.{key.value}")

    visit(yaml.compose(TEXT), SCHEMA, "")


def test_the_example_of_the_chart_is_a_good_training_job() -> None:
    (example,) = yaml.safe_load(ABOUT["annotations"]["artifacthub.io/crdsExamples"])
    assert (example["apiVersion"], example["kind"]) == (API_VERSION, KIND)
    TrainingJobSpec.model_validate(example["spec"])
    (crd,) = yaml.safe_load(ABOUT["annotations"]["artifacthub.io/crds"])
    assert crd["name"] == f"{PLURAL}.{API_VERSION.partition('/')[0]}"


def test_the_images_of_the_chart_are_those_of_the_program() -> None:
    images = {one["name"]: one["image"] for one in yaml.safe_load(ABOUT["annotations"]["artifacthub.io/images"])}
    assert images["job"] == Settings().job_image
    assert images["operator"] == f"dreambooth-operator:{ABOUT['appVersion']}"


def test_the_dashboard_shows_metrics_that_exist() -> None:
    exposed = generate_latest(metrics.REGISTRY).decode()
    names = {family.name for family in metrics.JobsByState(lambda: ["Training"]).collect()}
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", exposed, re.MULTILINE):
        names |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    shown = set(re.findall(r"\bdreambooth_\w+", json.dumps(dashboard)))
    assert shown <= names
    assert len(shown) > 5
