from __future__ import annotations

import base64
from pathlib import Path

import pytest

from devcluster.environment import ConfigError, Paths, command_line, environment, expand, field, quantity, resource

POD = {
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a/b": "x"}},
    "spec": {"nodeName": "local", "serviceAccountName": "default"},
}
OBJECTS = {
    ("secrets", "s"): {"data": {"k": base64.b64encode(b"v").decode()}},
    ("configmaps", "c"): {"data": {"k": "w"}},
}


def lookup(kind, name):
    return OBJECTS.get((kind, name))


def variables(*env, **container):
    return environment({"name": "main", "env": list(env), **container}, POD, lookup, {"BASE": "b"})


@pytest.mark.parametrize(
    ("text", "real"),
    [
        ("/scratch", "/real/v1"),
        ("/scratch/", "/real/v1/"),
        ("/scratch/a/b", "/real/v1/a/b"),
        ("/scratch/a/", "/real/v1/a/"),
        ("/scratch/cache/x", "/real/v2/x"),
        ("/scratchy", "/scratchy"),
        ("see /scratch", "see /scratch"),
        ("http://host/scratch", "http://host/scratch"),
        ("/dev/termination-log", "/real/message"),
        ("", ""),
    ],
)
def test_only_a_mount_path_and_what_lies_below_is_rewritten(text, real):
    mounts = {"/scratch": "/real/v1", "/scratch/cache": "/real/v2", "/dev/termination-log": "/real/message"}
    assert Paths({mount: Path(path) for mount, path in mounts.items()}).rewrite(text) == real


def test_a_mount_path_that_ends_with_a_slash_is_the_same_folder():
    paths = Paths({"/scratch/": Path("/real")})
    assert paths.rewrite("/scratch") == "/real"
    assert paths.rewrite("/scratch/a") == "/real/a"


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$(A)/x", "1/x"), ("$(B)", "$(B)"), ("$$(A)", "$(A)"), ("$A ${A} $", "$A ${A} $"), ("$(A)$(A)", "11")],
)
def test_references_are_expanded_as_kubernetes_does(text, expanded):
    assert expand(text, {"A": "1"}) == expanded


def test_later_variables_may_refer_to_earlier_ones_only():
    assert variables({"name": "X", "value": "$(Y)$(BASE)"}, {"name": "Y", "value": "$(X)"})["Y"] == "$(Y)b"


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ({"fieldRef": {"fieldPath": "metadata.uid"}}, "u"),
        ({"fieldRef": {"fieldPath": "spec.nodeName"}}, "local"),
        ({"fieldRef": {"fieldPath": "status.podIP"}}, "127.0.0.1"),
        ({"secretKeyRef": {"name": "s", "key": "k"}}, "v"),
        ({"configMapKeyRef": {"name": "c", "key": "k"}}, "w"),
        ({"secretKeyRef": {"name": "none", "key": "k", "optional": True}}, None),
        ({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}, "2048"),
    ],
)
def test_values_come_from_where_the_spec_says(source, value):
    found = variables({"name": "X", "valueFrom": source}, resources={"limits": {"memory": "2Gi"}})
    assert found.get("X") == value


def test_whole_secrets_come_before_single_variables():
    found = variables({"name": "p_k", "value": "mine"}, envFrom=[{"secretRef": {"name": "s"}, "prefix": "p_"}])
    assert found["p_k"] == "mine"
    assert variables(envFrom=[{"secretRef": {"name": "s"}, "prefix": "p_"}])["p_k"] == "v"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"secretKeyRef": {"name": "none", "key": "k"}}, 'secret "none" not found'),
        ({"configMapKeyRef": {"name": "c", "key": "z"}}, "couldn't find key z in configmap c"),
        ({"fieldRef": {"fieldPath": "spec.priority"}}, "does not know the field spec.priority"),
        ({"fileKeyRef": {}}, "variable X: the process node does not know fileKeyRef"),
    ],
)
def test_what_is_missing_is_named(source, message):
    with pytest.raises(ConfigError, match=message):
        variables({"name": "X", "valueFrom": source})


def test_paths_in_the_command_line_are_rewritten_after_expansion():
    container = {"command": ["run"], "args": ["$(DIR)/x", "--to=/s/y"]}
    assert command_line(container, {"DIR": "/s"}, Paths({"/s": Path("/real")})) == ["run", "/real/x", "--to=/s/y"]


def test_a_container_without_a_command_is_refused():
    with pytest.raises(ConfigError, match="no command"):
        command_line({"image": "x"}, {}, Paths({}))


def test_labels_can_be_asked_for_by_key():
    assert field(POD, "metadata.labels['a/b']") == "x"
    assert field(POD, "metadata.labels") == 'a/b="x"\n'


@pytest.mark.parametrize(("text", "number"), [("500m", "0.5"), ("2Gi", 2**31), ("1e3", 1000), ("3k", 3000), ("7", 7)])
def test_quantities_are_read(text, number):
    assert quantity(text) == type(quantity(text))(number)


def test_resources_are_rounded_up_to_whole_divisors():
    container = {"resources": {"requests": {"cpu": "1100m"}}}
    assert resource(container, {"resource": "requests.cpu"}) == "2"
