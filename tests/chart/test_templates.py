"""What helm renders for the combinations of values that change the outcome; no cluster."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from dreambooth_api.crd import crd
from dreambooth_api.names import ENV_CREDENTIALS, PATH_CREDENTIALS
from dreambooth_operator.cluster import Json
from dreambooth_operator.manifests import USER
from dreambooth_operator.rights import RIGHTS, Scope
from dreambooth_operator.settings import from_environment
from tests.chart.conftest import CHART, FULLNAME, NAMESPACE, Chart, HelmError, Object, find, is_hook, training_pod
from tests.chart.restricted import violations

pytestmark = pytest.mark.integration  # for helm is built with the cluster's tools

DIGEST = f"sha256:{'0' * 64}"
STORAGE = {"endpoint": "http://s3.example.org:9000", "region": "here", "credentialsSecret": "bucket-keys"}
EVERYTHING = {
    "watchNamespaces": ["team-a", "team-b"],
    "storage": STORAGE,
    "doctor": {"bucketUri": "s3://results/doctor/"},
    "admissionPolicy": {"enabled": True},
    "metrics": {"serviceMonitor": {"enabled": True}, "dashboard": {"enabled": True}},
    "imagePullSecrets": ["pull"],
    "job": {"imagePullSecrets": ["pull-a", "pull-b"]},
    "commonLabels": {"team": "ml"},
    "priorityClassName": "high",
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "podLabels": {"a": "b"},
    "podAnnotations": {"c": "d"},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
    "serviceAccount": {"annotations": {"cloud": "role"}},
}
CASES: dict[str, dict[str, Any]] = {"default": {}, "everything": EVERYTHING}


def pods(objects: list[Object]) -> list[tuple[str, Json]]:
    return [
        (one["metadata"]["name"], one["spec"]["template"]["spec"] if one["kind"] == "Deployment" else one["spec"])
        for one in objects
        if one["kind"] in ("Deployment", "Pod")
    ]


def operator(objects: list[Object]) -> Json:
    (container,) = find(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return container  # type: ignore[no-any-return]


def plain_env(container: Json) -> dict[str, str]:
    return {one["name"]: one.get("value", "from the pod") for one in container["env"]}


def granted(role: Object) -> set[tuple[str, str, str, str]]:
    """(group, resource, verb, name); an empty name: any."""
    return {
        (group, resource, verb, name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def needed(*scopes: Scope) -> set[tuple[str, str, str, str]]:
    names = {Scope.LEASE: FULLNAME}
    return {(r.group, r.resource, r.verb, names.get(r.scope, "")) for r in RIGHTS if r.scope in scopes}


def test_the_chart_passes_lint(chart: Chart) -> None:
    assert "0 chart(s) failed" in chart.helm("lint", chart.folder, "--strict")


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted(chart: Chart, case: str) -> None:
    found = {name: list(violations(pod)) for name, pod in pods(chart.render(**CASES[case]))}
    assert found
    assert not any(found.values()), found


@pytest.mark.parametrize("case", CASES)
def test_every_pod_holds_its_token_by_an_explicit_volume_only(chart: Chart, case: str) -> None:
    for name, pod in pods(chart.render(**CASES[case])):
        assert pod["automountServiceAccountToken"] is False, name
        tokens = [v for v in pod["volumes"] if "projected" in v]
        assert len(tokens) == (0 if name.endswith("-bucket") else 1), name


@pytest.mark.parametrize("case", CASES)
def test_no_secret_is_made_or_read(chart: Chart, case: str) -> None:
    objects = chart.render(**CASES[case])
    assert not [one for one in objects if one["kind"] == "Secret"]
    assert "secretKeyRef" not in json.dumps(objects)
    for role in (one for one in objects if one["kind"] in ("Role", "ClusterRole")):
        assert not {right for right in granted(role) if right[1] in ("secrets", "*") or right[2] == "*"}


@pytest.mark.parametrize("case", CASES)
def test_names_are_valid_and_labels_standard(chart: Chart, case: str) -> None:
    objects = chart.render(fullnameOverride="x" * 63, **CASES[case])
    for one in objects:
        name, labels = one["metadata"]["name"], one["metadata"]["labels"]
        assert len(name) <= (63 if "namespace" in one["metadata"] else 253), name
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance", "helm.sh/chart"} <= labels.keys(), name
        assert all(len(value) <= 63 for value in labels.values())
        assert labels.get("team") == CASES[case].get("commonLabels", {}).get("team")


def test_settings_are_those_the_operator_reads(chart: Chart) -> None:
    container = operator(chart.render(**EVERYTHING))
    settings = from_environment(plain_env(container))
    assert settings.namespaces == ("team-a", "team-b")
    assert (settings.storage_endpoint, settings.storage_region) == (STORAGE["endpoint"], STORAGE["region"])
    assert settings.storage_credentials_secret == STORAGE["credentialsSecret"]
    assert settings.lease == (NAMESPACE, FULLNAME)
    assert settings.identity == settings.pod_ip == "from the pod"
    assert settings.job_pull_secrets == ("pull-a", "pull-b")
    assert settings.progress_url == f"http://{FULLNAME}.{NAMESPACE}.svc:8081"
    assert settings.job_image == "dreambooth-job:0.1.0"
    assert plain_env(container)["HTTPS_PROXY"] == "http://proxy"


def test_services_lead_to_the_ports_the_operator_listens_on(chart: Chart) -> None:
    objects = chart.render()
    settings = from_environment(plain_env(operator(objects)))
    ports = {one["name"]: one["containerPort"] for one in operator(objects)["ports"]}
    assert ports == {"health": settings.health_listen[1], "progress": settings.progress_listen[1]}
    (progress,) = find(objects, "Service", FULLNAME)["spec"]["ports"]
    assert settings.progress_url == f"http://{FULLNAME}.{NAMESPACE}.svc:{progress['port']}"
    labels = find(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for service in (one for one in objects if one["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports.keys()


def test_two_replicas_spread_and_survive_a_drain(chart: Chart) -> None:
    objects = chart.render()
    deployment = find(objects, "Deployment")["spec"]
    assert deployment["replicas"] == 2
    assert [one["topologyKey"] for one in deployment["template"]["spec"]["topologySpreadConstraints"]] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    budget = find(objects, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == deployment["selector"]


# Images


@pytest.mark.parametrize(
    ("image", "registry", "expected"),
    [
        ({}, "", "dreambooth-operator:0.1.0"),
        ({"tag": "edge"}, "", "dreambooth-operator:edge"),
        ({"tag": "edge", "digest": DIGEST}, "", f"dreambooth-operator@{DIGEST}"),
        (
            {"repository": "own/name"},
            "registry.example.org:5000/team/",
            "registry.example.org:5000/team/own/name:0.1.0",
        ),
    ],
)
def test_digest_wins_over_tag_and_registry_comes_first(
    chart: Chart, image: dict[str, str], registry: str, expected: str
) -> None:
    objects = chart.render(image=image, job={"image": image}, **{"global": {"imageRegistry": registry}})
    assert operator(objects)["image"] == expected
    (doctor,) = find(objects, "Pod")["spec"]["containers"]
    assert doctor["image"] == expected
    job = plain_env(operator(objects))["DREAMBOOTH_JOB_IMAGE"]
    assert job == expected if "repository" in image else expected.replace("-operator", "-job")


# Rights


def test_in_cluster_mode_a_cluster_role_has_exactly_the_rights_of_the_list(chart: Chart) -> None:
    objects = [one for one in chart.render() if not is_hook(one)]
    assert granted(find(objects, "ClusterRole", f"{FULLNAME}.{NAMESPACE}")) == needed(Scope.SERVED, Scope.CLUSTER)
    (own,) = (one for one in objects if one["kind"] == "Role")
    assert own["metadata"]["namespace"] == NAMESPACE
    assert granted(own) == needed(Scope.OWN, Scope.LEASE)


def test_in_namespaced_mode_only_token_reviews_are_cluster_wide(chart: Chart) -> None:
    objects = [one for one in chart.render(watchNamespaces=["team-a", "team-b"]) if not is_hook(one)]
    assert granted(find(objects, "ClusterRole", f"{FULLNAME}.{NAMESPACE}")) == needed(Scope.CLUSTER)
    for namespace in ("team-a", "team-b"):
        assert granted(find(objects, "Role", namespace=namespace)) == needed(Scope.SERVED)
    assert granted(find(objects, "Role", namespace=NAMESPACE)) == needed(Scope.OWN, Scope.LEASE)


@pytest.mark.parametrize("case", CASES)
def test_every_binding_binds_a_role_to_an_account_that_are_both_there(chart: Chart, case: str) -> None:
    objects = chart.render(**CASES[case])
    accounts = {(one["metadata"]["name"], NAMESPACE) for one in objects if one["kind"] == "ServiceAccount"}
    bound = set()
    for binding in (one for one in objects if one["kind"].endswith("RoleBinding")):
        role = binding["roleRef"]
        find(objects, role["kind"], role["name"], binding["metadata"].get("namespace", ""))
        (subject,) = binding["subjects"]
        bound.add((subject["name"], subject["namespace"]))
    assert bound == accounts
    assert {pod["serviceAccountName"] for _, pod in pods(objects) if "serviceAccountName" in pod} == {
        name for name, _ in accounts
    }


def test_rights_can_be_left_to_others(chart: Chart) -> None:
    objects = chart.render(
        rbac={"create": False, "aggregateToUserRoles": False},
        serviceAccount={"create": False, "name": "given"},
        doctor={"enabled": False},
    )
    assert not [one for one in objects if "Role" in one["kind"] or one["kind"] == "ServiceAccount"]
    assert find(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "given"


# The CRD


def test_the_crd_is_the_generated_one_and_kept(chart: Chart) -> None:
    rendered = find(chart.render(), "CustomResourceDefinition")
    assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert rendered["spec"] == crd()["spec"]


def test_the_crd_goes_with_the_release_or_is_left_out_when_told_so(chart: Chart) -> None:
    rendered = find(chart.render(crds={"keep": False}), "CustomResourceDefinition")
    assert "annotations" not in rendered["metadata"]
    assert not [one for one in chart.render(crds={"enabled": False}) if one["kind"] == "CustomResourceDefinition"]


# Network


def ports(rule: Json) -> set[Any]:
    return {port["port"] for port in rule["ports"]}


def test_training_pods_reach_names_operator_and_buckets_and_nothing_reaches_them(chart: Chart) -> None:
    objects = chart.render(watchNamespaces=["team-a"], storage=STORAGE)
    spec = find(objects, "NetworkPolicy", namespace="team-a")["spec"]
    assert spec["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "dreambooth-job"}}
    assert (spec["policyTypes"], spec["ingress"]) == (["Ingress", "Egress"], [])
    dns, progress, storage = spec["egress"]
    assert ports(dns) == {53}
    assert progress["to"][0]["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}
    labels = find(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert progress["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    assert ports(storage) == {9000}
    everywhere = next(one["ipBlock"] for one in storage["to"] if one["ipBlock"]["cidr"] == "0.0.0.0/0")
    assert everywhere["except"] == ["169.254.0.0/16"]


@pytest.mark.parametrize(
    ("endpoint", "given", "expected"),
    [
        ("", [], {443}),
        ("http://minio", [], {80}),
        ("https://s3.example.org", [], {443}),
        ("https://[fd00::1]:8443", [], {8443}),
        ("http://minio:9000", [9001, 9002], {9001, 9002}),
    ],
)
def test_the_bucket_port_follows_from_the_endpoint(
    chart: Chart, endpoint: str, given: list[int], expected: set[int]
) -> None:
    objects = chart.render(
        watchNamespaces=["team-a"], storage={"endpoint": endpoint}, networkPolicy={"storage": {"ports": given}}
    )
    assert ports(find(objects, "NetworkPolicy", namespace="team-a")["spec"]["egress"][-1]) == expected


def test_the_operator_is_reached_by_training_pods_of_its_namespaces_and_reaches_the_api_server(chart: Chart) -> None:
    objects = chart.render(watchNamespaces=["team-a"], networkPolicy={"metricsFrom": []})
    spec = find(objects, "NetworkPolicy", namespace=NAMESPACE)["spec"]
    (progress,) = spec["ingress"]
    training, standby = progress["from"]
    assert training["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "dreambooth-job"}}
    assert training["namespaceSelector"]["matchExpressions"][0]["values"] == ["team-a"]
    assert "namespaceSelector" not in standby
    assert [ports(rule) for rule in spec["egress"]] == [{53}, {443, 6443}, {"progress"}]


def test_the_policies_select_what_they_are_meant_for(chart: Chart) -> None:
    objects = chart.render(**EVERYTHING)
    labels = {
        "training": training_pod("team-a")["metadata"]["labels"],
        "operator": find(objects, "Deployment")["spec"]["template"]["metadata"]["labels"],
        "doctor": find(objects, "Pod", f"{FULLNAME}-doctor")["metadata"]["labels"],
        "bucket doctor": find(objects, "Pod", f"{FULLNAME}-doctor-bucket")["metadata"]["labels"],
    }

    def selected(namespace: str) -> set[str]:
        selector = find(objects, "NetworkPolicy", namespace=namespace)["spec"]["podSelector"]
        return {
            name
            for name, own in labels.items()
            if selector["matchLabels"].items() <= own.items()
            and all(own.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", []))
        }

    assert selected(NAMESPACE) == {"operator", "doctor"}
    assert selected("team-a") == {"training", "bucket doctor"}


def test_an_empty_list_of_peers_opens_nothing(chart: Chart) -> None:
    nobody = {"dns": [], "storage": {"cidrs": []}}
    objects = chart.render(watchNamespaces=["team-a"], networkPolicy=nobody)
    for policy in (one["spec"] for one in objects if one["kind"] == "NetworkPolicy"):
        assert all(rule["to"] for rule in policy["egress"])
        assert not [rule for rule in policy["egress"] if 53 in ports(rule)]
    assert len(find(objects, "NetworkPolicy", namespace="team-a")["spec"]["egress"]) == 1
    server = {"podSelector": {"matchLabels": {"app": "minio"}}}
    objects = chart.render(watchNamespaces=["team-a"], networkPolicy={"storage": {"cidrs": [], "peers": [server]}})
    assert find(objects, "NetworkPolicy", namespace="team-a")["spec"]["egress"][-1]["to"] == [server]


def test_in_cluster_mode_namespaces_of_training_pods_are_named_for_their_policies(chart: Chart) -> None:
    def namespaces(**values: Any) -> set[str]:
        return {one["metadata"]["namespace"] for one in chart.render(**values) if one["kind"] == "NetworkPolicy"}

    assert namespaces() == {NAMESPACE}
    assert namespaces(networkPolicy={"namespaces": ["team-c"]}) == {NAMESPACE, "team-c"}
    assert namespaces(networkPolicy={"enabled": False}) == set()


# Doctors


def test_doctors_run_only_in_a_test_and_leave_nothing_when_all_is_well(chart: Chart) -> None:
    hooks = [one for one in chart.render(**EVERYTHING) if "doctor" in one["metadata"]["name"]]
    assert {one["kind"] for one in hooks} == {
        "Pod", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding",
    }  # fmt: skip
    for one in hooks:
        annotations = one["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "test"
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"


def test_the_operators_doctor_reads_the_operators_settings(chart: Chart) -> None:
    objects = chart.render(**EVERYTHING)
    (doctor,) = find(objects, "Pod", f"{FULLNAME}-doctor")["spec"]["containers"]
    own = plain_env(doctor)
    assert own.pop("DREAMBOOTH_OPERATOR_ACCOUNT") == f"{NAMESPACE}:{FULLNAME}"
    assert own.items() <= plain_env(operator(objects)).items()
    assert doctor["command"] == ["dreambooth-operator", "doctor"]


def test_the_buckets_doctor_is_a_training_pod_to_bucket_and_network(chart: Chart) -> None:
    values = {"storage": STORAGE, "doctor": {"bucketUri": "s3://results/doctor/", "namespace": "team-a"}}
    pod = find(chart.render(**values), "Pod", f"{FULLNAME}-doctor-bucket")
    assert pod["metadata"]["namespace"] == "team-a"
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "dreambooth-job"
    (container,) = pod["spec"]["containers"]
    assert container["command"] == [
        "dreambooth-job", "doctor", "s3://results/doctor/", "--endpoint", STORAGE["endpoint"], "--region", "here",
    ]  # fmt: skip
    assert plain_env(container) == {ENV_CREDENTIALS: PATH_CREDENTIALS}
    assert [one["mountPath"] for one in container["volumeMounts"]] == [PATH_CREDENTIALS]
    assert pod["spec"]["volumes"][0]["secret"]["secretName"] == STORAGE["credentialsSecret"]
    assert pod["spec"]["securityContext"]["runAsUser"] == USER


@pytest.mark.parametrize("values", [{"doctor": {"bucketUri": "s3://results/"}}, {"storage": STORAGE}])
def test_without_bucket_or_secret_there_is_no_buckets_doctor(chart: Chart, values: dict[str, Any]) -> None:
    assert [name for name, _ in pods(chart.render(**values))] == [FULLNAME, f"{FULLNAME}-doctor"]


# Monitoring


def test_prometheus_and_grafana_get_theirs_when_asked(chart: Chart) -> None:
    objects = chart.render(**EVERYTHING)
    monitor = find(objects, "ServiceMonitor")["spec"]
    service = find(objects, "Service", f"{FULLNAME}-metrics")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    board = find(objects, "ConfigMap")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["dreambooth-operator.json"])["panels"]
    assert not [one for one in chart.render() if one["kind"] in ("ServiceMonitor", "ConfigMap")]


# Values that are refused


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"replicaCount": 3}, "replicaCount"),
        ({"image": {"taag": "x"}}, "taag"),
        ({"crds": {"keeps": True}}, "keeps"),
        ({"networkPolicy": {"storage": {"port": 1}}}, "port"),
        ({"image": {"digest": "sha256:short"}}, "/image/digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"storage": {"endpoint": "s3.example.org"}}, "/storage/endpoint"),
        ({"storage": {"endpoint": "https://key:secret@s3.example.org"}}, "/storage/endpoint"),
        ({"doctor": {"bucketUri": "results/doctor"}}, "/doctor/bucketUri"),
        ({"resources": {"limits": {"memory": "lots"}}}, "/resources/limits/memory"),
        ({"watchNamespaces": "team-a"}, "/watchNamespaces"),
        ({"watchNamespaces": ["Team_A"]}, "/watchNamespaces/0"),
        ({"networkPolicy": {"storage": {"cidrs": ["10.0.0.0"]}}}, "/networkPolicy/storage/cidrs/0"),
        ({"replicas": "two"}, "/replicas"),
        ({"workers": 0}, "/workers"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else value,
)
def test_a_wrong_value_is_refused_by_its_name(chart: Chart, values: dict[str, Any], names: str) -> None:
    with pytest.raises(HelmError) as caught:
        chart.render(**values)
    assert names in str(caught.value)


def test_openshift_may_choose_the_user(chart: Chart) -> None:
    for name, pod in pods(chart.render(podSecurityContext={"runAsUser": None, "runAsGroup": None, "fsGroup": None})):
        assert set(pod["securityContext"]) == {"runAsNonRoot", "seccompProfile"}, name


# Notes


@pytest.mark.parametrize("case", CASES)
def test_notes_name_what_is_there(chart: Chart, case: str) -> None:
    notes, objects = chart.notes(**CASES[case]), chart.render(**CASES[case])
    for name in re.findall(r"deployment/(\S+)", notes):
        find(objects, "Deployment", name, NAMESPACE)
    namespaces = set(re.findall(r"--namespace (\S+)", notes))
    assert namespaces == {NAMESPACE, CASES[case].get("watchNamespaces", ["default"])[0]}
    assert f"helm test rel --namespace {NAMESPACE}" in notes
    served = "team-a, team-b" if "watchNamespaces" in CASES[case] else "every namespace"
    assert f"It serves TrainingJobs in {served}." in notes


def test_notes_warn_of_what_is_left_out(chart: Chart) -> None:
    told = chart.notes()
    for value in ("storage.endpoint", "storage.credentialsSecret", "networkPolicy.namespaces"):
        assert f"{value} " in told.partition("NOTE")[2]
    assert "NOTE" not in chart.notes(**EVERYTHING)
    assert "create secret generic bucket-keys" in chart.notes(**EVERYTHING)
    assert "doctor.bucketUri is empty" in chart.notes(storage=STORAGE)


# The page for whoever installs it

PAGE = (CHART.parents[1] / "docs/install.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```yaml\n# values.yaml\n(.*?)```", PAGE, re.DOTALL))
def test_values_in_the_docs_are_taken(chart: Chart, block: str) -> None:
    assert chart.render(**yaml.safe_load(block))


def test_values_named_in_the_docs_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    sections = "|".join(name for name, value in values.items() if isinstance(value, dict))
    named = re.findall(rf"`((?:{sections})(?:\.\w+)+)", PAGE)
    assert len(named) > 10
    for path in named:
        found = values
        for name in path.split("."):
            assert name in found, path
            found = found[name]
