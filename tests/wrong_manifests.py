"""Manifests that nobody should be able to apply: what is wrong, and the field the message must name.

Read by the API's unit tests (pydantic) and by the integration tests (a real API server's OpenAPI and CEL).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]


def good_spec() -> Spec:
    return {
        "baseModel": {"uri": "s3://models/base.safetensors"},
        "subjects": [{"token": "sks", "className": "dog", "images": {"uri": "s3://photos/rex/"}}],
        "output": {"uri": "s3://results/rex/"},
    }


@dataclass(frozen=True)
class Wrong:
    name: str
    break_it: Callable[[Spec], None]
    names: str  # what the API server's and pydantic's message must contain

    def spec(self) -> Spec:
        spec = copy.deepcopy(good_spec())
        self.break_it(spec)
        return spec


def _set(path: str, value: Any) -> Callable[[Spec], None]:
    def break_it(spec: Spec) -> None:
        *parents, last = path.split(".")
        node: Any = spec
        for part in parents:
            node = node[int(part)] if part.isdigit() else node.setdefault(part, {})
        node[last] = value

    return break_it


def _second_subject(token: str) -> Callable[[Spec], None]:
    return lambda spec: spec["subjects"].append(
        {"token": token, "className": "cat", "images": {"uri": "s3://photos/tom/"}}
    )


WRONG = (
    Wrong("no base model", lambda s: s.pop("baseModel"), "baseModel"),
    Wrong("no subject", _set("subjects", []), "subjects"),
    Wrong("no output", lambda s: s.pop("output"), "output"),
    Wrong("base model on the web", _set("baseModel.uri", "https://example.org/base.safetensors"), "uri"),
    Wrong("bucket name in upper case", _set("baseModel.uri", "s3://Models/base.safetensors"), "uri"),
    Wrong("digest too short", _set("baseModel.sha256", "abc"), "sha256"),
    Wrong("output is a whole bucket", _set("output.uri", "s3://results/"), "output"),
    Wrong("output among the pictures", _set("output.uri", "s3://photos/rex/out/"), "output.uri"),
    Wrong("unknown overwrite policy", _set("output.overwritePolicy", "Always"), "overwritePolicy"),
    Wrong("typo in a field", _set("training.learningrate", 1e-4), "learningrate"),
    Wrong("typo in a section", _set("trainings", {}), "trainings"),
    Wrong("token with a space", _set("subjects.0.token", "my dog"), "token"),
    Wrong("empty class name", _set("subjects.0.className", ""), "className"),
    Wrong("prompt without the token", _set("subjects.0.prompt", "a photo of a dog"), "token"),
    Wrong("same token twice", _second_subject("sks"), "subjects"),
    Wrong("unknown caption mode", _set("subjects.0.images.captions", "exif"), "captions"),
    Wrong("class images from nowhere", _set("subjects.0.classImages", {}), "generate"),
    Wrong("class images twice", _set("subjects.0.classImages", {"generate": 9, "uri": "s3://photos/d/"}), "generate"),
    Wrong("two methods", _set("method", {"full": {}, "lora": {}}), "full and lora"),
    Wrong("no method", _set("method", {}), "full and lora"),
    Wrong("rank zero", _set("method", {"lora": {"rank": 0}}), "rank"),
    Wrong("alpha negative", _set("method", {"lora": {"alpha": -1}}), "alpha"),
    Wrong("steps zero", _set("training.steps", 0), "steps"),
    Wrong("steps as text", _set("training.steps", "many"), "steps"),
    Wrong("steps without end", _set("training.steps", 10**12), "steps"),
    Wrong("rate zero", _set("training.learningRate", 0), "learningRate"),
    Wrong("resolution 500", _set("training.resolution", 500), "resolution"),
    Wrong("batch of a million", _set("training.batchSize", 10**6), "batchSize"),
    Wrong("unknown precision", _set("training.precision", "int8"), "precision"),
    Wrong("negative seed", _set("training.seed", -1), "seed"),
    Wrong("sampling after the end",
          lambda s: s.update(training={"steps": 10}, samples={"everySteps": 20}), "samples.everySteps"),
    Wrong("a prompt without words", _set("samples.prompts", [""]), "prompts"),
    Wrong("keep no checkpoint", _set("checkpoints.keepLast", 0), "keepLast"),
    Wrong("endpoint with a password", _set("storage.endpoint", "https://user:secret@store"), "endpoint"),
    Wrong("endpoint of another scheme", _set("storage.endpoint", "ftp://store"), "endpoint"),
    Wrong("secret of another namespace",
          _set("storage.credentialsSecretRef", {"name": "keys", "namespace": "other"}), "namespace"),
    Wrong("suspend as a word", _set("runPolicy.suspend", "later"), "suspend"),
    Wrong("backoff limit negative", _set("runPolicy.backoffLimit", -1), "backoffLimit"),
    Wrong("eight GPUs", _set("runtime.gpu.count", 8), "count"),
    Wrong("memory in words", _set("runtime.resources.memory", "plenty"), "memory"),
    Wrong("a privileged pod", _set("runtime.securityContext", {"privileged": True}), "securityContext"),
)  # fmt: skip
