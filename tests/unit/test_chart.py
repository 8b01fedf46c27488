"""The Helm chart: rendered by Helm itself, valid to Kubernetes, and of one mind with the settings and the topics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamrec.config.settings import Settings
from streamrec.transport.topics import wanted
from tests.support.deployed import settings_of

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "streamrec"
DOCKERFILE = (CHART.parents[1] / "Dockerfile").read_text(encoding="utf-8")
KUBERNETES = "1.37"
OF_OPERATORS = {"ScaledObject", "KafkaTopic", "ServiceMonitor", "PrometheusRule"}
EVERYTHING: dict[str, Any] = {
    "image": {"repository": "registry.example/streamrec", "tag": "7", "pullSecrets": ["login"]},
    "settings": {
        "kafka": {"bootstrap.servers": "a:1,b:2", "session.timeout.ms": 30000, "enable.idempotence": True},
        "redis": {"url": "rediss://shop@redis:6379/0"},
        "topics": {"partitions": 12, "retention_ms": 86_400_000, "events": "shop_events"},
        "checkpoints": {"handover_s": 30.5, "interval_s": 0.25},
        "learning": {"positives": ["view", "rating>=4"]},
        "scenarios": {"home": {"slates": {"diversity": 0.25}}},
    },
    "kafka": {"secret": {"name": "kafka", "usernameKey": "user"}, "ca": {"secret": "kafka-ca"}},
    "redis": {"secret": {"name": "redis"}},
    "snapshots": {"url": "s3://models/shop"},
    "worker": {
        "autoscaling": {"enabled": True, "maxReplicas": 12, "authenticationRef": "kafka", "metadata": {"tls": 1}}
    },
    "topics": {"by": "strimzi", "strimzi": {"namespace": "kafka"}},
    "metrics": {
        "port": 9200,
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    },
    "serviceAccount": {"annotations": {"a/role": "models"}},
    "env": [{"name": "STREAMREC_LOG_LEVEL", "value": "debug"}],
    "envFrom": [{"secretRef": {"name": "object-storage"}}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "x", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "volumes": [{"name": "catalogue", "emptyDir": {}}],
    "volumeMounts": [{"name": "catalogue", "mountPath": "/catalogue"}],
}

Documents = dict[tuple[str, str], dict[str, Any]]
Render = Callable[..., Documents]


@pytest.fixture(scope="module")
def helm() -> Any:
    return pytest.importorskip(
        "helm_python", reason="Helm is not here: pip install -c constraints.txt '.[chart]', on Linux, x86_64"
    )


@pytest.fixture
def render(helm: Any) -> Render:
    """What `helm template shop` prints, by kind and name."""

    def render(values: dict[str, Any] | None = None) -> Documents:
        with helm.Chart.load(str(CHART)) as chart:
            chart.validate_schema(values)
            rendered = chart.render(values, name="shop", namespace="prod")
        texts = [text for name, text in rendered.items() if not name.endswith(".txt")]
        found = [document for text in texts for document in yaml.safe_load_all(text) if document]
        named = {(document["kind"], document["metadata"]["name"]): document for document in found}
        assert len(named) == len(found)
        return named

    return render


def pods(documents: Documents) -> dict[str, dict[str, Any]]:
    """Specifications of pods, by component."""
    templates = [d["spec"]["template"] for (kind, _), d in documents.items() if kind in ("Deployment", "Job")]
    return {template["metadata"]["labels"]["app.kubernetes.io/component"]: template["spec"] for template in templates}


def environment(pod: dict[str, Any]) -> dict[str, str]:
    """What a container is given, secrets made up."""
    return {entry["name"]: entry.get("value", "secret") for entry in pod["containers"][0]["env"]}


def toml(documents: Documents, name: str = "shop-streamrec") -> str:
    return str(documents["ConfigMap", name]["data"]["streamrec.toml"])


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_helm_finds_nothing_wrong_and_kubernetes_takes_it(helm: Any, render: Render, values: dict[str, Any]) -> None:
    report = helm.lint(str(CHART), values, strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []
    kubernetes = pytest.importorskip("kubernetes_validate", reason="the schemas of Kubernetes are not installed")
    for (kind, _), document in render(values).items():
        if kind not in OF_OPERATORS:
            kubernetes.validate(document, KUBERNETES, strict=True)


def test_the_defaults_are_workers_a_learner_with_a_standby_trends_and_topics(render: Render) -> None:
    documents = render()
    replicas = {name: d["spec"]["replicas"] for (kind, name), d in documents.items() if kind == "Deployment"}
    assert replicas == {"shop-streamrec-worker": 2, "shop-streamrec-learner": 2, "shop-streamrec-trends": 1}
    kinds = {kind for kind, _ in documents}
    assert kinds == {
        "ConfigMap", "Deployment", "Job", "PersistentVolumeClaim", "PodDisruptionBudget", "Service", "ServiceAccount"
    }  # fmt: skip
    claim = documents["PersistentVolumeClaim", "shop-streamrec-snapshots"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    job = documents["Job", "shop-streamrec-topics"]["metadata"]["annotations"]
    assert job["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert pods(documents)["topics"]["serviceAccountName"] == "default"  # the chart's own is not there yet
    assert [pod["containers"][0]["args"] for pod in pods(documents).values()].count(["learner"]) == 1


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_pods_are_nobody_special_and_write_only_where_they_may(render: Render, values: dict[str, Any]) -> None:
    documents = render(values)
    user = DOCKERFILE.partition("--uid ")[2].split()[0]
    cache = DOCKERFILE.partition("NUMBA_CACHE_DIR=")[2].split()[0]
    for component, pod in pods(documents).items():
        container = pod["containers"][0]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert str(pod["securityContext"]["runAsUser"]) == user
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"], component
        empty = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in empty}
        assert {cache, "/tmp", "/var/lib/streamrec"} <= writable
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_workers_and_learners_are_probed_and_given_time_to_stop(render: Render, values: dict[str, Any]) -> None:
    documents = render(values)
    port = values.get("metrics", {}).get("port", 9100)
    handover_s = values.get("settings", {}).get("checkpoints", {}).get("handover_s", 20)
    for component in ("worker", "learner"):
        pod = pods(documents)[component]
        container = pod["containers"][0]
        assert container["ports"] == [{"name": "metrics", "containerPort": port}]
        probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert probes == {
            "startup": {"path": "/livez", "port": "metrics"},
            "liveness": {"path": "/livez", "port": "metrics"},
            "readiness": {"path": "/readyz", "port": "metrics"},
        }
        assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 120
        assert pod["terminationGracePeriodSeconds"] > handover_s + 20
        assert [spread["topologyKey"] for spread in pod["topologySpreadConstraints"]]
        labels = documents["Deployment", f"shop-streamrec-{component}"]["spec"]["template"]["metadata"]["labels"]
        for kind in ("PodDisruptionBudget", "Service"):
            spec = documents[kind, f"shop-streamrec-{component}"]["spec"]
            selected = spec["selector"].get("matchLabels", spec["selector"])
            assert selected.items() <= labels.items()
            assert selected["app.kubernetes.io/component"] == component


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_every_setting_and_variable_is_one(
    render: Render, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    documents = render(values)
    for pod in pods(documents).values():
        variables = environment(pod)
        place = Path(variables.pop("STREAMREC_CONFIG"))
        mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "config"}
        assert {str(place.parent)} == mounts
        settings = settings_of(monkeypatch, tmp_path, toml(documents), variables)
        assert settings.metrics_host == "0.0.0.0"
        assert settings.metrics_port == settings.learner.metrics_port == values.get("metrics", {}).get("port", 9100)
        assert settings.learner.where == "elsewhere"
    if values:
        assert settings.kafka["session.timeout.ms"] == 30000
        assert type(settings.kafka["session.timeout.ms"]) is int  # librdkafka takes no 30000.0
        assert settings.kafka["sasl.username"] == settings.kafka["sasl.password"] == "secret"
        assert settings.kafka["ssl.ca.location"] == "/etc/streamrec/kafka-ca/ca.crt"
        assert settings.redis.password_file == Path("/etc/streamrec/redis/password")
        assert (settings.checkpoints.interval_s, settings.checkpoints.handover_s) == (0.25, 30.5)
        assert settings.learning.positives
        assert settings.scenarios["home"].slates.diversity == 0.25
        assert settings.snapshots.url == "s3://models/shop"


def test_the_whole_url_of_redis_may_be_the_secret(
    render: Render, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    documents = render({"redis": {"secret": {"name": "redis", "urlKey": "url"}}})
    variables = environment(pods(documents)["worker"])
    assert variables.pop("STREAMREC_REDIS") == "secret"
    given = {**variables, "STREAMREC_REDIS": "redis://:pw@host/1"}
    assert settings_of(monkeypatch, tmp_path, toml(documents), given).redis.full_url() == "redis://:pw@host/1"


def test_workers_scale_by_the_lag_of_their_group(render: Render) -> None:
    documents = render(EVERYTHING)
    assert "replicas" not in documents["Deployment", "shop-streamrec-worker"]["spec"]  # an upgrade must not undo KEDA
    scaled = documents["ScaledObject", "shop-streamrec-worker"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == "shop-streamrec-worker"
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (1, 12)
    assert scaled["triggers"] == [
        {
            "type": "kafka",
            "metadata": {
                "bootstrapServers": "a:1,b:2",
                "consumerGroup": Settings().group_id,
                "topic": "shop_events",
                "lagThreshold": "5000",
                "offsetResetPolicy": "earliest",
                "tls": "1",
            },
            "authenticationRef": {"name": "kafka"},
        }
    ]
    assert documents["Deployment", "shop-streamrec-learner"]["spec"]["replicas"] == 2


def test_prometheus_is_given_the_alerts_as_they_are(render: Render) -> None:
    rule = render(EVERYTHING)["PrometheusRule", "shop-streamrec"]
    alerts = (CHART.parents[1] / "prometheus" / "rules.yaml").read_text(encoding="utf-8")
    assert rule["spec"] == yaml.safe_load(alerts)
    assert rule["metadata"]["labels"]["release"] == "prometheus"


@pytest.mark.parametrize("retention_ms", [None, 86_400_000, -1])
def test_strimzi_makes_the_topics_that_the_command_would(
    render: Render, retention_ms: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = {} if retention_ms is None else {"retention_ms": retention_ms}
    documents = render({"topics": {"by": "strimzi"}, "settings": {"topics": {"partitions": 12, **kept}}})
    made = {
        d["spec"]["topicName"]: (d["spec"]["partitions"], d["spec"]["replicas"], d["spec"]["config"])
        for (kind, _), d in documents.items()
        if kind == "KafkaTopic"
    }
    settings = settings_of(monkeypatch, tmp_path, toml(documents))
    asked = {
        topic.topic: (topic.partitions, topic.replication_factor, topic.config) for topic in wanted(settings.topics)
    }
    assert made == asked
    assert all(
        d["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        for (kind, _), d in documents.items()
        if kind == "KafkaTopic"
    )
    assert "Job" not in {kind for kind, _ in documents}


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"worker": {"replica": 3}}, "replica"),
        ({"settings": {"kafka": {"sasl.password": "hush"}}}, "sasl.password"),
        ({"settings": {"redis": {"url": "redis://:hush@redis"}}}, "url"),
        ({"settings": {"metrics_port": 9}}, "metrics_port"),
        ({"snapshots": {"url": "https://models"}}, "url"),
        ({"learner": {"replicas": 50}}, "replicas"),
        ({"topics": {"by": "hand"}}, "by"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(helm: Any, values: dict[str, Any], place: str) -> None:
    with helm.Chart.load(str(CHART)) as chart, pytest.raises(helm.HelmError, match=place):
        chart.validate_schema(values)


def test_the_chart_is_of_the_version_that_it_installs() -> None:
    import streamrec

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == chart["version"] == streamrec.__version__
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert set(values) == set(schema["properties"]) - {"global"}
