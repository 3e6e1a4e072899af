"""TrainingJob's CustomResourceDefinition, made from the pydantic tree. `python -m dreambooth_api.crd` prints it.

Kubernetes wants a structural schema: no $ref, no anyOf with null, types on every level, defaults as plain JSON
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/).
"""

from __future__ import annotations

import sys
from typing import Any

from pydantic import BaseModel

from dreambooth_api import names
from dreambooth_api.spec import TrainingJobSpec
from dreambooth_api.status import TrainingJobStatus

Schema = dict[str, Any]

COLUMNS = (
    ("State", ".status.state", 0, "One word or two; the conditions are the contract"),
    ("Step", ".status.display.step", 0, "Optimizer step of all steps"),
    ("Loss", ".status.display.loss", 0, "Moving average of the loss"),
    ("Eta", ".status.display.eta", 0, "Estimated time left"),
    ("Result", ".status.result.uri", 1, "The published manifest"),
    ("Message", ".status.message", 1, "Why it is in this state, and what to do"),
)

ROOT_RULES = [
    {
        "rule": f"size(self.metadata.name) <= {names.MAX_NAME_LENGTH}",
        "message": f"metadata.name must have at most {names.MAX_NAME_LENGTH} characters: pods are named after it",
    },
    {
        "rule": "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "message": "metadata.name may hold lower-case letters, digits and hyphens only: pods are named after it",
    },
]


def structural(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """`model`'s JSON schema in the form an API server accepts; a status has no defaults, only what was written."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.pop("$defs", {})
    flat: Schema = _flatten(schema, definitions, defaults)
    return flat


_DROPPED = {"title", "additionalProperties", "$defs", "const"}
# Pydantic writes Rust-style limits; OpenAPI v3 as Kubernetes reads it has booleans for the exclusive ones.
_EXCLUSIVE = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}


def _flatten(node: Any, definitions: dict[str, Schema], defaults: bool) -> Any:
    if isinstance(node, list):
        return [_flatten(item, definitions, defaults) for item in node]
    if not isinstance(node, dict):
        return node
    node = _inline(node, definitions)
    flat: Schema = {}
    for key, value in node.items():
        if key == "properties":
            flat[key] = {name: _flatten(child, definitions, defaults) for name, child in value.items()}
        elif key == "additionalProperties" and isinstance(value, dict):
            flat[key] = _flatten(value, definitions, defaults)
        elif key in _EXCLUSIVE:
            flat[_EXCLUSIVE[key]] = value
            flat[key] = True
        elif key == "default":
            flat |= {} if value is None or not defaults else {key: _without_nulls(value)}
        elif key == "description":
            flat[key] = " ".join(value.split())
        elif key not in _DROPPED:
            flat[key] = _flatten(value, definitions, defaults)
    return flat | ({"format": "int64"} if flat.get("type") == "integer" else {})


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def _inline(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Replaces $ref and the optional's anyOf by what they stand for; the field's own words win over the type's."""
    own = {k: v for k, v in node.items() if k not in ("$ref", "anyOf")}
    if reference := node.get("$ref"):
        return _inline({**definitions[reference.rsplit("/", 1)[-1]], **own}, definitions)
    if choices := node.get("anyOf"):
        (choice,) = [c for c in choices if c.get("type") != "null"]
        return _inline({**choice, **own}, definitions)
    return node


def crd() -> dict[str, Any]:
    spec, status = structural(TrainingJobSpec), structural(TrainingJobStatus, defaults=False)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": [names.CATEGORY],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": n, "type": "string", "jsonPath": p, "priority": w, "description": d}
                        for n, p, w, d in COLUMNS
                    ]
                    + [{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp", "priority": 0}],
                    "schema": {
                        "openAPIV3Schema": {
                            "description": "Teaches an image model a new subject from a handful of pictures.",
                            "type": "object",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": status,
                            },
                            "x-kubernetes-validations": ROOT_RULES,
                        }
                    },
                }
            ],
        },
    }


HEADER = "# Generated by `make crd` from api/dreambooth_api/spec.py and status.py; do not edit.\n"

if __name__ == "__main__":
    import yaml  # the generator's need alone: no process of ours reads YAML

    sys.stdout.write(HEADER + yaml.safe_dump(crd(), sort_keys=False, width=120, allow_unicode=True))
