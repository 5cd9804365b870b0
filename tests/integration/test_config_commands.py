"""`gateway-broker config`: every value and its source; all that is wrong at once."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from broker.config import GatewayConfig, Settings
from tests.program import ask, ended, free_address, running

FILE = """\
session_limit = 20
database_url = "postgresql://u:hunter2@h/db?sslpassword=hunter3"

[gateways.paper]
host = "gw-paper"
kind = "paper"
client_ids = "200-299"
maintenance = ["ibkr-europe"]

[gateways.live]
host = "gw-\\u007f\\"é"
port = 4001
kind = "live"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "broker.toml"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


def broken(file: Path, text: str) -> dict[str, str]:
    file.write_text(text)
    return {"GATEWAY_BROKER_CONFIG": str(file)}


def rows(text: str) -> dict[str, Any]:
    return {row["field"]: row for row in json.loads(text)}


@pytest.mark.requirement("AC-013")
async def test_every_setting_is_shown_with_its_source_and_without_secrets(file: Path) -> None:
    environ = {"GATEWAY_BROKER_CONFIG": str(file), "LOG_LEVEL": "DEBUG"}
    for form in ("table", "toml", "json"):
        said = await ask("config", "show", "--output", form, **environ)
        assert said.code == 0, said.err
        assert "hunter" not in said.out
    shown = rows(said.out)
    fields = {name for name in Settings.model_fields if name != "gateways"}
    for gateway in ("paper", "live"):
        fields |= {f"gateways.{gateway}.{name}" for name in GatewayConfig.model_fields}
    assert set(shown) == fields
    assert list(shown["session_limit"].values()) == ["session_limit", 20, "file", f"{file}, line 1"]
    assert (shown["log_level"]["value"], shown["log_level"]["source"]) == ("DEBUG", "LOG_LEVEL")
    assert shown["retention_days"]["from"] == "default"
    assert shown["database_url"]["value"] == "postgresql://u:***@h/db?sslpassword=***"
    table = await ask("config", "show", **environ)
    assert f"{file}, line 7" in table.out


async def test_what_is_shown_as_toml_is_a_configuration_of_the_same_values(
    file: Path, tmp_path: Path
) -> None:
    environ = {
        "GATEWAY_BROKER_CONFIG": str(file),
        "GATEWAY_BROKER_STORE_GRACE": "0.00000012",
        "GATEWAY_BROKER_GATEWAYS__PAPER__MASTER_CLIENT_ID": "7",
    }
    written = await ask("config", "show", "--output", "toml", **environ)
    copy = tmp_path / "copy.toml"
    copy.write_text(written.out)
    assert tomllib.loads(written.out)["gateways"]["live"]["host"] == 'gw-\x7f"é'
    was = rows((await ask("config", "show", "-o", "json", **environ)).out)
    said = await ask("config", "show", "-o", "json", GATEWAY_BROKER_CONFIG=str(copy))
    now = rows(said.out)
    assert {field: row["value"] for field, row in now.items()} == {
        field: row["value"] for field, row in was.items()
    }


async def test_check_tells_all_that_is_wrong_at_once(file: Path) -> None:
    environ = broken(file, "sesion_limit = 3\n[gateways.paper]\nport = 0\n")
    environ["LOG_LEVEL"] = "loud"
    said = await ask("config", "check", **environ)
    assert (said.code, said.out) == (1, "")
    assert len(said.err.splitlines()) == 3
    assert f"did you mean session_limit? (in {file}, line 1)" in said.err
    assert f"(got 0 in {file}, line 3)" in said.err
    assert "(got 'loud' in LOG_LEVEL)" in said.err
    told = await ask("config", "check", "--output", "json", **environ)
    assert told.code == 1
    found = json.loads(told.out)
    assert found["accepted"] is False
    assert {problem["field"] for problem in found["problems"]} == {
        *("sesion_limit", "gateways.paper.port", "log_level"),
    }


async def test_check_accepts_and_tells_what_serve_would_warn_of(file: Path) -> None:
    fine = await ask("config", "check", GATEWAY_BROKER_CONFIG=str(file))
    assert fine.code == 0
    assert fine.out.splitlines()[-1] == "accepted, with 1 warning"
    assert "gateways: none is named 'default'" in fine.out
    bare = await ask("config", "check", "-o", "json")
    found = json.loads(bare.out)
    assert found["accepted"] is True
    assert {doubt["field"] for doubt in found["warnings"]} == {
        *("database_url", "gateways.default.kind"),
    }


async def test_serve_logs_its_doubts_before_it_starts() -> None:
    settings = {
        "GATEWAY_BROKER_GRPC_LISTEN": free_address(),
        "DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x",
        "GATEWAY_BROKER_COLOUR": "red",
    }
    async with running("serve", **settings) as process:
        said = await ended(process)
    logged = [json.loads(line) for line in said.err.splitlines() if line.startswith("{")]
    doubted = {line["field"]: line for line in logged if line["event"] == "setting_doubted"}
    assert set(doubted) == {"GATEWAY_BROKER_COLOUR", "gateways.default.kind"}
    assert doubted["GATEWAY_BROKER_COLOUR"]["level"] == "warning"
    assert "hunter2" not in said.err


async def test_an_option_that_is_refused_is_named() -> None:
    said = await ask("serve", "--grpc-listen", "nope", GATEWAY_BROKER_GRPC_LISTEN="127.0.0.1:1")
    assert said.code == 1
    assert "grpc_listen: must be HOST:PORT" in said.err
    assert "(got 'nope' in --grpc-listen)" in said.err


async def test_serve_refuses_what_check_refuses(file: Path) -> None:
    async with running("serve", **broken(file, "sesion_limit = 3\n")) as process:
        said = await ended(process)
    assert said.code == 1
    assert f"did you mean session_limit? (in {file}, line 1)" in said.err


async def test_check_refuses_the_files_that_serve_refuses(tmp_path: Path) -> None:
    access, key = tmp_path / "access", tmp_path / "key.pem"
    access.write_text("# nobody\n")
    access.chmod(0o644)
    (tmp_path / "server.pem").write_text("")
    environ = {
        "GATEWAY_BROKER_GRPC_LISTEN": free_address(),
        "GATEWAY_BROKER_ACCESS_FILE": str(access),
        "GATEWAY_BROKER_TLS_CERTIFICATE": str(tmp_path / "server.pem"),
        "GATEWAY_BROKER_TLS_KEY": str(key),
    }
    said = await ask("config", "check", **environ)
    assert said.code == 1
    assert f"access_file: {access}: can be read by everybody" in said.err
    assert f"tls_key: {key}: No such file or directory (in GATEWAY_BROKER_TLS_KEY)" in said.err
    assert "accepted" not in said.out
    async with running("serve", **environ) as process:
        assert f"{access}: can be read by everybody" in (await ended(process)).err
