"""The configuration: where values come from, and what is refused by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from broker.config import GatewayConfig, load_settings
from broker.errors import StartupError
from broker.gateway.base import GatewayKind
from broker.gateway.endpoint import GatewaySettings
from broker.gateway.maintenance import Calendar
from broker.session.backoff import Backoff
from broker.session.budgets import Budgets
from broker.session.client_ids import Pool


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("GATEWAY_BROKER_", "IB_GATEWAY_")) or name in (
            "DATABASE_URL",
            "LOG_LEVEL",
            "PROMETHEUS_PORT",
        ):
            monkeypatch.delenv(name)


def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(text)
    monkeypatch.setenv("GATEWAY_BROKER_CONFIG", str(path))


@pytest.mark.requirement("AC-013")
def test_the_defaults_are_those_of_the_requirements() -> None:
    settings = load_settings()
    gateway = settings.gateways["default"]
    assert (gateway.host, gateway.port, gateway.timeout) == ("127.0.0.1", 4002, 30)
    assert gateway.settings("default").max_attempts == 7
    assert gateway.settings("default").backoff == Backoff(1, 32, 0.2)
    assert (
        gateway.circuit_breaker_failure_threshold,
        gateway.circuit_breaker_success_threshold,
        gateway.circuit_breaker_timeout,
        gateway.health_check_interval,
    ) == (5, 2, 30, 30)
    assert (settings.session_limit, settings.log_level) == (10, "INFO")
    assert settings.grpc_listen == "127.0.0.1:50051"


def test_an_endpoint_has_the_defaults_of_the_configuration() -> None:
    assert GatewayConfig().settings("x") == GatewaySettings("x", "127.0.0.1", 4002)


def test_what_the_file_says_of_a_gateway_reaches_its_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        monkeypatch,
        """
        [gateways.paper]
        heartbeat_interval = 3
        auth_grace = 4
        health_check_interval = 5
        sentinel = false
        circuit_breaker_failure_threshold = 6
        circuit_breaker_success_threshold = 7
        circuit_breaker_timeout = 8
        maintenance = ["ibkr-europe", "05:00-05:10 Europe/Zurich"]
        connecting_budget = 9
        reconnecting_budget = 10
        condition_budget = 11
        """,
    )
    assert load_settings().gateways["paper"].settings("paper") == GatewaySettings(
        "paper",
        "127.0.0.1",
        4002,
        heartbeat_interval=3,
        auth_grace=4,
        health_check_interval=5,
        sentinel=False,
        breaker_failures=6,
        breaker_successes=7,
        breaker_timeout=8,
        maintenance=Calendar.of(["ibkr-europe", "05:00-05:10 Europe/Zurich"]),
        budgets=Budgets(9, 10, 11),
    )


def test_each_bad_window_is_named_and_told_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        monkeypatch,
        """
        [gateways.paper]
        maintenance = ["ibkr-mars", "23:45-00:45 UTC", "23:45-00:45 ET"]
        """,
    )
    with pytest.raises(StartupError) as caught:
        load_settings()
    _, first, second = str(caught.value).splitlines()
    path = tmp_path / "broker.toml"
    assert first == (
        "  gateways.paper.maintenance.0: there is no such preset; the presets are "
        f"ibkr-north-america, ibkr-europe, ibkr-asia (got 'ibkr-mars' in {path}, line 3)"
    )
    assert second == (
        "  gateways.paper.maintenance.2: 'ET' is not a time zone named by place, nor UTC; "
        "an example is Sat-Thu 23:45-00:45 America/New_York "
        f"(got '23:45-00:45 ET' in {path}, line 3)"
    )


def test_the_plain_names_of_other_tools_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IB_GATEWAY_HOST", "gw.example")
    monkeypatch.setenv("IB_GATEWAY_PORT", "4001")
    monkeypatch.setenv("IB_GATEWAY_KIND", "live")
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://u:p@db/x")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    settings = load_settings()
    gateway = settings.gateways["default"]
    assert (gateway.host, gateway.port, gateway.kind) == ("gw.example", 4001, GatewayKind.LIVE)
    assert settings.database_url == "postgresql://u:p@db/x"
    assert settings.log_level == "DEBUG"


def test_the_file_declares_gateways_and_the_environment_is_stronger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        monkeypatch,
        """
        session_limit = 5
        [gateways.paper]
        host = "gw1"
        client_ids = "200-210"
        kind = "paper"
        [gateways.live]
        host = "gw2"
        port = 4001
        """,
    )
    monkeypatch.setenv("GATEWAY_BROKER_SESSION_LIMIT", "7")
    settings = load_settings()
    assert set(settings.gateways) == {"paper", "live"}
    assert settings.gateways["paper"].client_ids == Pool(200, 210)
    assert settings.session_limit == 7
    assert load_settings(session_limit=9).session_limit == 9


@pytest.mark.requirement("AC-013")
@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("IB_GATEWAY_PORT", "0", "gateways.default.port"),
        ("IB_GATEWAY_PORT", "65536", "gateways.default.port"),
        ("IB_GATEWAY_PORT", "http", "gateways.default.port"),
        ("IB_GATEWAY_KIND", "demo", "gateways.default.kind"),
        ("LOG_LEVEL", "LOUD", "log_level"),
        ("GATEWAY_BROKER_SESSION_LIMIT", "0", "session_limit"),
        ("GATEWAY_BROKER_SESSION_LIMIT", "-1", "session_limit"),
        ("GATEWAY_BROKER_GRPC_LISTEN", "50051", "grpc_listen"),
        ("GATEWAY_BROKER_GRPC_LISTEN", "127.0.0.1:99999", "grpc_listen"),
        ("GATEWAY_BROKER_GRPC_LISTEN", "0.0.0.0:50051", "grpc_listen"),
        ("GATEWAY_BROKER_METRICS_HOST", "a b", "metrics_host"),
        ("GATEWAY_BROKER_METRICS_HOST", "127.0.0.1:9090", "metrics_host"),
        ("GATEWAY_BROKER_METRICS_HOST", "[localhost]", "metrics_host"),
        ("GATEWAY_BROKER_STORE_TIMEOUT", "nan", "store_timeout"),
        ("GATEWAY_BROKER_GATEWAYS", "{", "gateways"),
        ("GATEWAY_BROKER_METRICS", "perhaps", "metrics"),
        ("GATEWAY_BROKER_TRACES_ENDPOINT", "127.0.0.1:4317", "traces_endpoint"),
        ("GATEWAY_BROKER_TRACES_ENDPOINT", "http://127.0.0.1", "traces_endpoint"),
        ("GATEWAY_BROKER_TRACES_ENDPOINT", "http://127.0.0.1:99999", "traces_endpoint"),
        ("DATABASE_URL", "mysql://u:secret@h/x", "database_url"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_field(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as caught:
        load_settings()
    assert named in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sesion_limit = 3", "sesion_limit"),
        ("[gateways.paper]\nhots = 'x'", "gateways.paper.hots"),
        ("[gateways.paper]\nclient_ids = '9-1'", "gateways.paper.client_ids"),
        ("[gateways.paper]\nclient_ids = 'all'", "gateways.paper.client_ids"),
        ("[gateways.paper]\ntimeout = 0", "gateways.paper.timeout"),
        *(
            (f"[gateways.paper]\n{name} = {value}", f"gateways.paper.{name}")
            for name, value in (
                ("circuit_breaker_failure_threshold", "0"),
                ("circuit_breaker_failure_threshold", "1001"),
                ("circuit_breaker_success_threshold", "0"),
                ("circuit_breaker_timeout", "0"),
                ("maintenance", "'ibkr-europe'"),
                ("heartbeat_interval", "0"),
                ("heartbeat_interval", "1.1"),
                ("auth_grace", "inf"),
                ("health_check_interval", "-1"),
                ("sentinel", "'perhaps'"),
                ("connecting_budget", "0"),
                ("reconnecting_budget", "nan"),
                ("condition_budget", "86401"),
            )
        ),
        ("[gateways.Paper]", "gateways.Paper"),
        ("[gateways.a]\nhost='localhost'\n[gateways.b]\nhost='::1'", "gateways.b"),
        ("= broken", "is not TOML"),
    ],
)
def test_a_bad_file_is_refused_by_the_name_of_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, named: str
) -> None:
    write(tmp_path, monkeypatch, text)
    with pytest.raises(StartupError) as caught:
        load_settings()
    assert named in str(caught.value)


def test_a_file_that_is_not_there_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_BROKER_CONFIG", "nowhere.toml")
    with pytest.raises(StartupError, match=r"nowhere\.toml"):
        load_settings()


TLS: dict[str, Any] = {"tls_certificate": "server.pem", "tls_key": "server-key.pem"}


@pytest.mark.requirement("AC-015")
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "set tls_certificate and tls_key, and access_file or tls_client_ca"),
        ({"access_file": "access"}, "set tls_certificate and tls_key ("),
        (TLS, "set access_file or tls_client_ca ("),
    ],
)
@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.0.0.1:50051", "broker.lan:50051"])
def test_beyond_loopback_callers_must_be_known_and_what_they_send_encrypted(
    listen: str, given: dict[str, Any], named: str
) -> None:
    with pytest.raises(StartupError) as caught:
        load_settings(grpc_listen=listen, **given)
    assert f"grpc_listen: {listen} is beyond loopback" in str(caught.value)
    assert named in str(caught.value)
    load_settings(grpc_listen=listen, insecure_no_auth=True, **given)


@pytest.mark.requirement("AC-015")
@pytest.mark.parametrize("more", [{"access_file": "access"}, {"tls_client_ca": "ca.pem"}])
def test_with_tls_and_known_callers_the_broker_listens_anywhere(more: dict[str, Any]) -> None:
    assert load_settings(grpc_listen="0.0.0.0:0", **TLS, **more).grpc_listen == "0.0.0.0:0"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tls_certificate": "server.pem"}, "tls_key"),
        ({"tls_key": "server-key.pem"}, "tls_certificate"),
        ({"tls_client_ca": "ca.pem"}, "tls_client_ca"),
        ({"tls_client_role": "admin"}, "tls_client_role"),
    ],
)
def test_half_of_a_pair_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(StartupError, match=named):
        load_settings(**given)


def test_beyond_loopback_must_be_asked_for_aloud() -> None:
    settings = load_settings(grpc_listen="0.0.0.0:0", insecure_no_auth=True)
    assert settings.grpc_listen == "0.0.0.0:0"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (
            {"http_listen": "127.0.0.1:50051"},
            "http_listen: 127.0.0.1:50051 is taken by grpc_listen",
        ),
        (
            {"http_listen": "localhost:50051"},
            "http_listen: localhost:50051 is taken by grpc_listen",
        ),
        ({"http_listen": "0.0.0.0:50051"}, "http_listen: 0.0.0.0:50051 is taken by grpc_listen"),
        ({"prometheus_port": 50051}, "prometheus_port: 127.0.0.1:50051 is taken by grpc_listen"),
        ({"prometheus_port": 8080}, "prometheus_port: 127.0.0.1:8080 is taken by http_listen"),
        (
            {"prometheus_port": 8080, "metrics_host": "::1", "http_listen": "[::1]:8080"},
            "prometheus_port: [::1]:8080 is taken by http_listen",
        ),
    ],
)
def test_two_servers_of_ours_on_one_address_are_refused_by_both_names(
    given: dict[str, Any], named: str
) -> None:
    with pytest.raises(StartupError) as caught:
        load_settings(**given)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"grpc_listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0", "prometheus_port": 0},
        {"http_listen": "off", "prometheus_port": 8080},
        {"prometheus_port": 8080, "metrics": False},
        {"prometheus_port": 8080, "metrics_host": "127.0.0.2"},
    ],
)
def test_what_does_not_listen_or_listens_elsewhere_is_in_nobodys_way(given: dict[str, Any]) -> None:
    load_settings(**given)


@pytest.mark.parametrize(
    ("host", "listen"),
    [
        ("::1", "[::1]:9090"),
        ("[::1]", "[::1]:9090"),
        ("10.0.0.1", "10.0.0.1:9090"),
        ("metrics.lan", "metrics.lan:9090"),
    ],
)
def test_the_host_of_metrics_may_be_of_ipv6_with_or_without_brackets(
    host: str, listen: str
) -> None:
    assert load_settings(metrics_host=host).metrics_listen == listen


def test_a_log_level_may_be_in_small_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert load_settings().log_level == "DEBUG"
