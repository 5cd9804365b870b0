"""`gateway-broker access`, what `serve` refuses, and commands that show who calls."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from broker.access import roster, tokens
from broker.access.identity import Role
from broker.access.trial import Trial
from broker.simulator.gateway import SimulatedGateway
from tests.access import guarded, make, settings, token_of
from tests.program import FREE_PORTS, Said, ask, free_address, run, running, until


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return make(tmp_path)


@pytest.fixture
async def address(
    simulator: SimulatedGateway, database_url: str, trial: Trial
) -> AsyncIterator[str]:
    async with guarded(simulator, database_url, trial) as where:
        yield where


def shown(trial: Trial, role: Role) -> list[str]:
    return ["--tls-ca", str(trial.ca), "--token-file", str(trial.token(role))]


# -- access init -------------------------------------------------------------------


async def test_init_makes_what_a_broker_needs_and_says_what_to_do(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "trial")
    said = await ask(
        *("access", "init", str(trial.directory)),
        *("--host", "broker.example.net", "--host", "10.1.2.3", "--client", "risk=viewer"),
    )
    assert said.code == 0, said.err
    for name in ("TLS_CERTIFICATE", "TLS_KEY", "ACCESS_FILE", "TLS_CLIENT_CA"):
        assert f"export GATEWAY_BROKER_{name}=" in said.out
    assert "grpcurl" in said.out
    # Whatever is no certificate is a secret, and no secret is on the screen.
    assert stat.S_IMODE(trial.directory.stat().st_mode) == 0o700
    for path in trial.directory.iterdir():
        public = path.read_bytes().startswith(b"-----BEGIN CERTIFICATE")
        assert stat.S_IMODE(path.stat().st_mode) == (0o644 if public else 0o600), path
    for role in Role:
        assert token_of(trial, role) not in said.out + said.err
    names = (
        x509.load_pem_x509_certificate(trial.certificate.read_bytes())
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    assert {"broker.example.net", "localhost"} <= set(names.get_values_for_type(x509.DNSName))
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert {"10.1.2.3", "127.0.0.1", "::1"} <= addresses
    entries = roster.read(trial.access_file).entries
    assert [(item.identity.name, item.identity.role) for item in entries] == [
        ("viewer", Role.VIEWER),
        ("trader", Role.TRADER),
        ("operator", Role.OPERATOR),
        ("risk", Role.VIEWER),
    ]


async def test_init_overwrites_nothing(trial: Trial) -> None:
    before = {path: path.read_bytes() for path in trial.directory.iterdir()}
    said = await ask("access", "init", str(trial.directory))
    assert said.code == 1
    assert "nothing is overwritten" in said.err
    assert {path: path.read_bytes() for path in trial.directory.iterdir()} == before
    # Nor what only a broken link stands for.
    other = trial.directory.parent / "other"
    other.mkdir()
    (other / "server-key.pem").symlink_to(trial.directory / "elsewhere")
    assert (await ask("access", "init", str(other))).code == 1
    assert [path.name for path in other.iterdir()] == ["server-key.pem"]


@pytest.mark.parametrize("client", ["risk", "risk=admin", "=viewer", "../risk=viewer", "ca=viewer"])
async def test_init_refuses_a_client_that_it_cannot_name(tmp_path: Path, client: str) -> None:
    said = await ask("access", "init", str(tmp_path / "trial"), "--client", client)
    assert said.code in {1, 2}
    assert not (tmp_path / "trial").exists()


async def test_a_client_certificate_is_made_later_and_is_let_in(
    simulator: SimulatedGateway, database_url: str, trial: Trial
) -> None:
    made = await ask("access", "client", str(trial.directory), "desk", "--role", "operator")
    assert made.code == 0, made.err
    certificate, key = trial.client("desk")
    assert made.out.splitlines() == [str(certificate), str(key)]
    async with guarded(simulator, database_url, trial, **settings(trial, mutual=True)) as address:
        at = ["--broker", address, "--tls-ca", str(trial.ca)]
        said = await ask("gateways", "drain", "default", *at, "--cert", str(certificate),
                         "--key", str(key))  # fmt: skip
        assert said.code == 0, said.err
        assert "desk since" in said.out
        assert (await ask("health", *at)).code == 3
        said = await ask(
            "health", *at, GATEWAY_BROKER_CERT=str(certificate), GATEWAY_BROKER_KEY=str(key)
        )
        assert said.out == "SERVING\n"


# -- access token ------------------------------------------------------------------


async def test_a_token_is_added_listed_and_revoked(trial: Trial) -> None:
    configured = {"GATEWAY_BROKER_ACCESS_FILE": str(trial.access_file)}
    added = await ask(
        "access", "token", "add", "momentum", "--role", "trader", "--expires", "30d", **configured
    )
    assert added.code == 0, added.err
    token = added.out.strip()
    assert tokens.digest(token) in roster.read(trial.access_file).tokens
    assert token not in trial.access_file.read_text()
    listed = await ask("access", "token", "list", "--output", "json", **configured)
    [found] = [item for item in json.loads(listed.out) if item["name"] == "momentum"]
    assert (found["role"], found["key"] in added.err) == ("trader", True)
    assert token not in listed.out
    wrong = await ask("access", "token", "revoke", "momentum", "--key", "x", **configured)
    assert wrong.code == 1
    assert "access token list" in wrong.err
    revoked = await ask("access", "token", "revoke", "momentum", **configured)
    assert revoked.code == 0
    assert tokens.digest(token) not in roster.read(trial.access_file).tokens


@pytest.mark.parametrize(
    "arguments",
    [
        ("", "--role", "trader"),
        ("two words", "--role", "trader"),
        ("a\nb", "--role", "trader"),
        ("#x", "--role", "trader"),
        ("x" * 129, "--role", "trader"),
        ("momentum", "--role", "admin"),
        ("momentum", "--role", "trader", "--expires", "soon"),
        ("momentum", "--role", "trader", "--expires", "2001-01-01T00:00:00Z"),
        ("momentum", "--role", "trader", "--expires", "2101-01-01T00:00:00"),
    ],
)
async def test_a_token_that_makes_no_sense_is_not_added(
    trial: Trial, arguments: tuple[str, ...]
) -> None:
    before = trial.access_file.read_bytes()
    said = await ask("access", "token", "add", *arguments, "--file", str(trial.access_file))
    assert (said.code, said.out) == (2, "")
    assert trial.access_file.read_bytes() == before


async def test_a_token_needs_a_file_to_stand_in(tmp_path: Path) -> None:
    add = ("access", "token", "add", "momentum", "--role", "trader")
    assert (await ask(*add)).code == 2
    said = await ask(*add, "--file", str(tmp_path / "nowhere" / "access"))
    assert (said.code, said.out) == (1, "")
    assert "No such file" in said.err
    path = tmp_path / "access"
    assert (await ask(*add, "--file", str(path))).code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.identity.name for item in roster.read(path).entries] == ["momentum"]


# -- commands that reach a broker --------------------------------------------------


async def test_commands_show_a_token_over_tls(address: str, trial: Trial) -> None:
    at = ["--broker", address]
    trader = shown(trial, Role.TRADER)
    opened = await ask("sessions", "open", "--output", "json", *at, *trader)
    assert opened.code == 0, opened.err
    session = json.loads(opened.out)
    assert session["owner"] == "trader"
    # The environment says the same, and what is typed wins.
    told = {
        "GATEWAY_BROKER_TLS_CA": str(trial.ca),
        "GATEWAY_BROKER_TOKEN_FILE": str(trial.token(Role.VIEWER)),
    }
    listed = await ask("sessions", "list", *at, **told)
    assert session["session_id"] in listed.out
    denied = await ask("sessions", "close", session["session_id"], *at, **told)
    assert denied.code == 10
    assert "PERMISSION_DENIED" in denied.err
    assert "hint: ask somebody whose role is trader" in denied.err
    closed = await ask("sessions", "close", session["session_id"], *at, *trader, **told)
    assert closed.code == 0, closed.err


async def test_a_watch_shows_its_token(address: str, trial: Trial) -> None:
    at = ["--broker", address, *shown(trial, Role.VIEWER)]
    async with running("sessions", "watch", *at) as watch:
        assert "changes follow" in await until(watch, "changes follow")


async def test_health_needs_no_token_but_the_authority(address: str, trial: Trial) -> None:
    said = await ask("health", "--broker", address, "--tls-ca", str(trial.ca))
    assert (said.code, said.out) == (0, "SERVING\n")
    plain = await ask("health", "--broker", address)
    assert plain.code == 3
    assert "--tls-ca" in plain.err


async def test_who_shows_nothing_is_told_what_to_show(address: str, trial: Trial) -> None:
    said = await ask("gateways", "list", "--broker", address, "--tls-ca", str(trial.ca))
    assert said.code == 10
    assert "UNAUTHENTICATED: no token was sent" in said.err
    assert "hint: give --token-file" in said.err


async def test_a_broker_that_is_not_trusted_is_told_apart_from_none(
    address: str, trial: Trial, tmp_path: Path
) -> None:
    other = make(tmp_path / "other")
    said = await ask("gateways", "list", "--broker", address, *shown(other, Role.VIEWER))
    assert said.code == 3
    assert "hint: its certificate must be of --tls-ca" in said.err
    none = await ask("gateways", "list", "--broker", free_address(), *shown(trial, Role.VIEWER))
    assert none.code == 3
    assert "no broker answers" in none.err


@pytest.mark.requirement("AC-015")
async def test_a_token_is_not_shown_for_everybody_to_read(trial: Trial) -> None:
    token = trial.token(Role.VIEWER)
    beyond = ["gateways", "list", "--broker", "192.0.2.1:1"]
    said = await ask(*beyond, "--token-file", str(token))
    assert said.code == 2
    assert "plain text" in " ".join(said.err.split())
    token.chmod(0o644)
    said = await ask(*beyond, "--token-file", str(token), "--tls-ca", str(trial.ca))
    assert said.code == 1
    assert "can be read by everybody" in said.err


@pytest.mark.parametrize(
    "options", [["--cert", "x"], ["--key", "x"], ["--cert", "x", "--key", "x"]]
)
async def test_half_of_what_is_to_be_shown_is_refused(options: list[str]) -> None:
    assert (await ask("gateways", "list", "--broker", "127.0.0.1:1", *options)).code == 2


# -- serve -------------------------------------------------------------------------


async def refused(**told: str) -> Said:
    said = await run("serve", **{"GATEWAY_BROKER_GRPC_LISTEN": "127.0.0.1:0", **told})
    assert said.code == 1
    assert "Traceback" not in said.err
    return said


async def test_serve_starts_with_no_file_that_is_not_usable(trial: Trial, tmp_path: Path) -> None:
    access = {"GATEWAY_BROKER_ACCESS_FILE": str(trial.access_file)}
    tls = {
        "GATEWAY_BROKER_TLS_CERTIFICATE": str(trial.certificate),
        "GATEWAY_BROKER_TLS_KEY": str(trial.key),
    }
    missing = await refused(GATEWAY_BROKER_ACCESS_FILE=str(tmp_path / "nowhere"))
    assert "nowhere" in missing.err
    other = make(tmp_path / "other")
    mismatch = await refused(**tls | {"GATEWAY_BROKER_TLS_KEY": str(other.key)})
    assert "is not the key of the certificate" in mismatch.err
    trial.access_file.chmod(0o644)
    assert "can be read by everybody" in (await refused(**access)).err
    trial.access_file.chmod(0o600)
    trial.access_file.write_text("momentum trader\n")
    assert "line 1: must be NAME ROLE UNTIL KEY" in (await refused(**access)).err


async def test_dev_asks_for_a_token_when_it_is_told_to(trial: Trial, fresh_data_dir: Path) -> None:
    address = free_address()
    async with running(
        *("dev", "--grpc-listen", address, "--control-listen", "127.0.0.1:0", *FREE_PORTS),
        *("--data-dir", str(fresh_data_dir), "--access", str(trial.directory)),
    ) as process:
        banner = await until(process, "Ctrl-C stops all of it.")
        assert f"--tls-ca {trial.ca} --token-file {trial.token(Role.OPERATOR)}" in banner
        at = ["--broker", address]
        assert (await ask("gateways", "list", *at, "--tls-ca", str(trial.ca))).code == 10
        said = await ask("gateways", "list", *at, *shown(trial, Role.OPERATOR))
        assert said.code == 0, said.err
