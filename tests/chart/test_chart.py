"""docs/operations/chart, by Helm itself, by Kubernetes' schemas, and by a worker that is started as its pod would be."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.harness import wait_for
from tracked_queue.chaos.programs import Program
from tracked_queue.chaos.server import RedisServer, free_port
from tracked_queue.settings import setting_names

CHART = Path(__file__).parents[2] / "docs" / "operations" / "chart"
NEEDED = {
    "image": {"repository": "registry.example/shop", "tag": "1.4"},
    "app": "shop.jobs:app",
    "redis": {"secret": "shop-redis"},
}
ALL = {
    "workers": {
        "critical": {"queues": ["critical=5", "default"], "replicas": 4, "keda": {"enabled": True}, "maxMemory": 2_000_000_000},
        "images": {"processes": 4, "env": {"MODE": "b"}, "nodeSelector": {"disk": "fast"}, "maxUnavailable": "50%",
                   "tolerations": [{"key": "a", "operator": "Exists"}], "affinity": {"podAntiAffinity": {}}},
        "default": None,
    },
    "grace": 120, "env": {"MODE": "a", "TRACKED_QUEUE_HEARTBEAT_TTL": "60"}, "envFrom": [{"secretRef": {"name": "shop"}}],
    "exporter": {"enabled": True}, "podMonitor": True, "serviceAccountName": "shop", "podAnnotations": {"a": "b"},
    "imagePullSecrets": [{"name": "registry"}],
}  # fmt: skip
KUBERNETES = ("1.27", "1.33", "1.37")


def helm(*arguments: str, values: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "values.yaml"
    file.write_text(json.dumps(values))
    command = ["helm", *arguments, str(CHART), "--values", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def render(tmp_path: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What `helm template` makes of these values: 'Kind/name' -> object."""

    def made(values: dict[str, Any]) -> dict[str, Any]:
        done = helm("template", "shop", "--namespace", "apps", values=values, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        found = [one for one in yaml.safe_load_all(done.stdout) if one]
        assert len({(one["kind"], one["metadata"]["name"]) for one in found}) == len(found)
        return {f"{one['kind']}/{one['metadata']['name']}": one for one in found}

    return made


Render = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize("more", [{}, ALL], ids=["least", "all"])
def test_it_lints_and_fits_the_schemas(render: Render, tmp_path: Path, more: dict[str, Any]) -> None:
    linted = helm("lint", "--strict", values=NEEDED | more, folder=tmp_path)
    assert linted.returncode == 0, linted.stdout
    for name, item in render(NEEDED | more).items():
        if "monitoring.coreos.com" in item["apiVersion"] or "keda.sh" in item["apiVersion"]:
            continue  # of operators; their schemas are not in Kubernetes
        for version in KUBERNETES:
            kubernetes_validate.validate(item, version, strict=True), name


def test_the_page_about_it_has_values_that_it_takes(render: Render) -> None:
    page = (CHART.parents[1] / "how-to" / "kubernetes.md").read_text()
    printed = page.partition("```yaml\n# values.yaml\n")[2].partition("```")[0]
    assert {"Deployment/shop-critical", "Deployment/shop-images", "Deployment/shop-exporter"} <= set(
        render(yaml.safe_load(printed))
    )


def test_a_pod_has_more_time_than_its_jobs(render: Render) -> None:
    spec = render(NEEDED | {"grace": 120})["Deployment/shop-default"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    given = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert given["--grace"] == "120" and spec["terminationGracePeriodSeconds"] == 130


def test_what_a_worker_gives_replaces_what_all_have(render: Render) -> None:
    found = render(NEEDED | ALL)
    deployments = sorted(name for name in found if name.startswith("Deployment/"))
    assert deployments == ["Deployment/shop-critical", "Deployment/shop-exporter", "Deployment/shop-images"]
    pods = {name: one["spec"]["template"]["spec"] for name, one in found.items() if "Deployment/" in name}
    variables = {
        name: {one["name"]: one.get("value") for one in pod["containers"][0]["env"]} for name, pod in pods.items()
    }
    assert variables["Deployment/shop-critical"]["MODE"] == "a" and variables["Deployment/shop-images"]["MODE"] == "b"
    assert variables["Deployment/shop-critical"]["TRACKED_QUEUE_MAX_MEMORY"] == "2000000000"
    for of_pod in variables.values():
        assert {name for name in of_pod if name.startswith("TRACKED_QUEUE_")} <= {
            f"TRACKED_QUEUE_{name.upper()}" for name in setting_names()
        }
    assert "replicas" not in found["Deployment/shop-critical"]["spec"], "KEDA decides"
    (trigger,) = found["ScaledObject/shop-critical"]["spec"]["triggers"]
    assert trigger["metadata"]["url"] == "http://shop-exporter.apps:9380/scale?queue=critical&queue=default"
    for name in ("Deployment/shop-critical", "Deployment/shop-images"):
        labels = found[name]["spec"]["template"]["metadata"]["labels"]
        selector = found[name]["spec"]["selector"]["matchLabels"]
        assert selector.items() <= labels.items()
        assert found[name.replace("Deployment", "PodDisruptionBudget")]["spec"]["selector"]["matchLabels"] == selector
    of_monitor = found["PodMonitor/shop"]["spec"]["selector"]["matchLabels"]
    assert all(
        of_monitor.items() <= found[name]["spec"]["template"]["metadata"]["labels"].items() for name in deployments
    )
    digest = render(NEEDED | {"image": {"repository": "a/b", "tag": "sha256:00"}})["Deployment/shop-default"]
    assert digest["spec"]["template"]["spec"]["containers"][0]["image"] == "a/b@sha256:00"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "image.repository"),
        (NEEDED | {"app": "shop"}, "app"),
        (NEEDED | {"redis": {"secret": ""}}, "redis.secret"),
        (NEEDED | {"worker": {}}, "worker"),
        (NEEDED | {"workers": {"a": {"concurency": 5}}}, "concurency"),
        (NEEDED | {"workers": {"a": {"keda": {"enabled": True}}}}, "workers.a.keda.enabled needs exporter.enabled"),
        (
            NEEDED | {"exporter": {"enabled": True}, "workers": {"a": {"keda": {"enabled": True}}}},
            "needs workers.a.queues",
        ),
        (NEEDED | {"env": {"A": 1}}, "env.A"),
        (
            NEEDED | {"exporter": {"enabled": True}, "workers": {"exporter": {}}},
            "workers.exporter: the exporter has that name",
        ),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    done = helm("template", "shop", values=values, folder=tmp_path)
    assert done.returncode != 0 and said in done.stderr, done


def test_a_worker_starts_as_its_pod_would_and_answers_its_probes(
    render: Render, server: RedisServer, tmp_path: Path
) -> None:
    port = free_port()
    found = render(NEEDED | {"app": "tests.process.jobs:app", "workers": {"default": {"queues": ["default=2"]}}})
    (container,) = found["Deployment/shop-default"]["spec"]["template"]["spec"]["containers"]
    of_pod = {"POD_NAME": "shop-1", "POD_UID": "7", "TRACKED_QUEUE_REDIS_URL": server.url}
    for one in container["env"]:
        value = of_pod.get(one["name"], one.get("value"))
        of_pod[one["name"]] = value.replace("$(POD_NAME)", "shop-1").replace("$(POD_UID)", "7")
    base = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKED_QUEUE_", "PROCESSING_"))}
    assert container["command"][:2] == ["python", "-m"] and of_pod["TRACKED_QUEUE_HTTP_PORT"] == "8080"
    worker = Program(
        tmp_path / "log",
        base | of_pod | {"TRACKED_QUEUE_HTTP_PORT": str(port)},
        *container["command"][2:],
        *container["args"],
    )
    try:
        probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
        assert {probe["port"] for probe in probes} == {one["name"] for one in container["ports"]}

        def answers(path: str) -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
                    return bool(reply.status == 200)
            except OSError:
                return False

        for probe in probes:
            wait_for(lambda path=probe["path"]: answers(path), 20, probe["path"])
        worker.terminate()
        assert worker.wait() == 0
    finally:
        if worker.alive:
            worker.vanish()


def test_the_exporter_goes_by_the_app_s_own_settings(render: Render) -> None:
    """Which win over the environment: without the app it would look at another namespace."""
    spec = render(NEEDED | {"exporter": {"enabled": True}})["Deployment/shop-exporter"]["spec"]["template"]["spec"]
    assert spec["containers"][0]["command"][-2:] == ["--app", "shop.jobs:app"]


def test_large_numbers_stay_whole(render: Render) -> None:
    worker = {"queues": ["a"], "concurrency": 2_000_000, "keda": {"enabled": True, "workPerPod": 1_600_000}}
    found = render(NEEDED | {"workers": {"default": worker}, "exporter": {"enabled": True}})
    assert "2000000" in found["Deployment/shop-default"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert found["ScaledObject/shop-default"]["spec"]["triggers"][0]["metadata"]["targetValue"] == "1600000"


def test_compose_runs_commands_that_exist_in_any_image() -> None:
    """A `command` alone would follow the image's own entrypoint."""
    page = (CHART.parents[1] / "how-to" / "docker-compose.md").read_text()
    listed = (CHART.parents[1] / "reference" / "commands.md").read_text()
    for text in ((CHART.parent / "compose.yaml").read_text(), page.partition("```yaml\n")[2].partition("```")[0]):
        ours = [one for one in yaml.safe_load(text)["services"].values() if "build" in one]
        assert ours
        for service in ours:
            assert (
                service["entrypoint"] == ["python", "-m", "tracked_queue"] and f"| `{service['command'][0]}" in listed
            )
