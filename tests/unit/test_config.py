"""The configuration: where values come from, and what is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.config import load_settings
from broker.errors import StartupError
from broker.gateway.base import GatewayKind
from broker.session.backoff import Backoff
from broker.session.client_ids import Pool


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("GATEWAY_BROKER_", "IB_GATEWAY_")) or name in (
            "DATABASE_URL",
            "LOG_LEVEL",
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
    assert (settings.session_limit, settings.log_level) == (10, "INFO")
    assert settings.grpc_listen == "127.0.0.1:50051"


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
        ("GATEWAY_BROKER_STORE_TIMEOUT", "nan", "store_timeout"),
        ("GATEWAY_BROKER_GATEWAYS", "{", "gateways"),
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


def test_beyond_loopback_must_be_asked_for_aloud() -> None:
    settings = load_settings(grpc_listen="0.0.0.0:0", insecure_no_auth=True)
    assert settings.grpc_listen == "0.0.0.0:0"
