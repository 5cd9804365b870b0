"""What deploys the broker: valid to the programs that read it, and true to the broker."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.config import FROM_FILES, NO_SETTINGS, PLAIN_NAMES, PREFIX, Settings
from tests.deployment.tools import DEPLOY, ROOT, ask

KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
CLOUD_RUN = DEPLOY / "cloud-run" / "connection-service.yaml"
COMPOSE = DEPLOY / "compose.yaml"
UNIT = DEPLOY / "systemd" / "gateway-broker.service"
OF_THE_CLUSTER = sorted(
    path
    for path in BASE.glob("*.yaml")
    if path.name not in {"kustomization.yaml", "service-monitor.yaml"}
)
BROKER_NAME = re.compile(r"\b(?:GATEWAY_BROKER|DATABASE_URL|IB_GATEWAY|LOG_LEVEL)\w*")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def known() -> set[str]:
    """The names in the environment that the broker reads."""
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return settings | {*PLAIN_NAMES, *NO_SETTINGS} | {f"{name}_FILE" for name in FROM_FILES}


@pytest.mark.parametrize(
    "path",
    [ROOT / "Dockerfile", COMPOSE, CLOUD_RUN, UNIT, *sorted(KUBERNETES.rglob("*.yaml"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_only_settings_that_exist_are_set(path: Path) -> None:
    text = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)
    assert set(BROKER_NAME.findall(text)) <= known()


@pytest.mark.parametrize("path", OF_THE_CLUSTER, ids=lambda path: path.name)
def test_kubernetes_takes_the_manifest(path: Path) -> None:
    ask("kubernetes-validate", "--strict", path)


def test_the_kustomization_lists_files_that_exist() -> None:
    for folder in (BASE, KUBERNETES / "tls"):
        listed = load(folder / "kustomization.yaml")
        for name in listed["resources"]:
            assert (folder / name).exists()
            # A base that holds what is built on it is a cycle to kustomize.
            assert not folder.is_relative_to((folder / name).resolve())
        for patch in listed.get("patches", ()):
            assert (folder / patch["path"]).exists()


def broker_container() -> dict[str, Any]:
    [container] = load(BASE / "deployment.yaml")["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_a_cluster_never_runs_two_brokers_on_one_database() -> None:
    spec = load(BASE / "deployment.yaml")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_cluster_sets_no_variables_that_look_like_settings() -> None:
    # GATEWAY_BROKER_PORT=tcp://10.0.0.1:50051 is what a Service of our name would give.
    assert load(BASE / "deployment.yaml")["spec"]["template"]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_the_cluster_asks_the_broker_and_not_its_gateways(name: str) -> None:
    # With the name of a service it would restart a broker that waits for a Gateway.
    assert broker_container()[name]["grpc"] == {"port": 50051}


def test_the_configuration_of_the_cluster_is_one(tmp_path: Path) -> None:
    import tomllib

    settings = tomllib.loads(load(BASE / "config.yaml")["data"]["broker.toml"])
    assert Settings(**settings).gateways["default"].port == 4004


def test_the_patch_for_tls_replaces_what_is_there() -> None:
    [patched] = load(KUBERNETES / "tls" / "deployment-patch.yaml")["spec"]["template"]["spec"][
        "containers"
    ]
    plain = broker_container()
    assert patched["name"] == plain["name"]
    assert {probe for probe in patched if probe.endswith("Probe")} == {
        probe for probe in plain if probe.endswith("Probe")
    }
    assert {"name": "GATEWAY_BROKER_INSECURE_NO_AUTH", "value": "false"} in patched["env"]


def test_cloud_run_gets_one_instance_with_what_the_plan_gives_it() -> None:
    service = load(CLOUD_RUN)
    assert (service["apiVersion"], service["kind"]) == ("serving.knative.dev/v1", "Service")
    template = service["spec"]["template"]
    scale = {
        name: value
        for name, value in template["metadata"]["annotations"].items()
        if name.startswith("autoscaling.")
    }
    assert scale == {
        "autoscaling.knative.dev/minScale": "1",
        "autoscaling.knative.dev/maxScale": "1",
    }
    assert template["spec"]["timeoutSeconds"] == 3600
    [container] = template["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "512Mi"}
    assert container["ports"] == [{"name": "h2c", "containerPort": 50051}]
    assert (
        container["startupProbe"]["grpc"] == container["livenessProbe"]["grpc"] == {"port": 50051}
    )
    [secret] = [item for item in container["env"] if item["name"] == "DATABASE_URL"]
    assert "secretKeyRef" in secret["valueFrom"]
    assert "60 minutes" in CLOUD_RUN.read_text()


def test_compose_understands_its_file_with_and_without_a_gateway() -> None:
    ask("docker-compose", "--file", COMPOSE, "config", "--quiet")
    ask(
        *("docker-compose", "--file", COMPOSE, "--profile", "gateway", "config", "--quiet"),
        GATEWAY_IMAGE="example.org/gateway:stable",
    )


def services() -> Iterator[tuple[str, dict[str, Any]]]:
    """The services of the compose file as compose itself reads them."""
    text = ask("docker-compose", "--file", COMPOSE, "--profile", "*", "config", GATEWAY_IMAGE="g")
    yield from yaml.safe_load(text)["services"].items()


def test_compose_publishes_on_loopback_only_and_never_the_gateway() -> None:
    published = {name: port for name, service in services() for port in service.get("ports", ())}
    assert published.keys() == {"broker", "prometheus", "grafana"}
    for name, service in services():
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", name


def test_compose_keeps_secrets_in_files_and_restarts_what_serves() -> None:
    for name, service in services():
        assert not [key for key in service.get("environment", ()) if re.search("PASSWORD$", key)]
        if name == "migrate":
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        assert name == "gateway" or "healthcheck" in service, name


def test_the_database_is_on_a_network_without_a_way_out() -> None:
    networks = {name: set(service.get("networks", ())) for name, service in services()}
    assert [name for name, joined in networks.items() if "database" in joined] == [
        "broker",
        "migrate",
        "postgres",
    ]
    assert networks["postgres"] == {"database"}
    assert [name for name, joined in networks.items() if "gateway" in joined] == [
        "broker",
        "gateway",
    ]


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("gateway-broker")
    unit = tmp_path / UNIT.name
    unit.write_text(
        UNIT.read_text().replace("/opt/gateway-broker/bin/gateway-broker", str(program))
    )
    assert not ask("systemd-analyze", "verify", "--man=no", unit)


def test_systemd_finds_the_unit_hardened() -> None:
    told = ask("systemd-analyze", "security", "--offline=true", "--threshold=20", UNIT)
    assert "exposure level" in told


def test_the_unit_runs_where_the_installer_installs() -> None:
    assert "ExecStart=/opt/gateway-broker/bin/gateway-broker serve" in UNIT.read_text()
    assert "deploy/install.sh /opt/gateway-broker" in (DEPLOY / "install.sh").read_text()
