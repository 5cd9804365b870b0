"""Where a value was said, what a refusal names, and what is never shown."""

from __future__ import annotations

import os
import re
import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import config
from broker.config import read_configuration
from broker.errors import ConfigurationError
from broker.provenance import masked
from broker.sources import lines_of

NO_SUCH = "there is no such setting"
FILE = """\
# A comment.
session_limit = 20

[gateways.paper]
host = "gw-paper"
maintenance = [
    "ibkr-europe",
    "05:00-05:10 UTC",
]
"""


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("GATEWAY_BROKER_", "IB_GATEWAY_", "DATABASE_URL", "LOG_LEVEL")):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "broker.toml"
    path.write_text(FILE)
    monkeypatch.setenv("GATEWAY_BROKER_CONFIG", str(path))
    return path


def refused() -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_configuration()
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("location", "line"),
    [
        (("session_limit",), 2),
        (("gateways",), 4),
        (("gateways", "paper"), 4),
        (("gateways", "paper", "host"), 5),
        (("gateways", "paper", "maintenance"), 6),
        (("gateways", "paper", "maintenance", 1), 6),
        (("gateways", "nope"), None),
    ],
)
def test_the_line_of_a_value_is_where_it_begins(
    location: tuple[str | int, ...], line: int | None
) -> None:
    assert lines_of(FILE).get(location) == line


def test_the_line_of_a_dotted_or_inline_value_is_found_too() -> None:
    text = 'a = 1\ngateways.live = { host = "x", port = 4001 }\ngateways.paper.host = "y"\n'
    assert lines_of(text)["gateways", "live", "port"] == 2
    assert lines_of(text)["gateways", "paper", "host"] == 3


def test_the_lines_of_a_long_file_are_found_at_once() -> None:
    tables = "".join(f"[gateways.g{number}]\nhost = 'h'\nport = 1\n" for number in range(3000))
    began = time.perf_counter()
    assert lines_of(tables)["gateways", "g2999", "port"] == 9000
    assert time.perf_counter() - began < 5


def test_a_value_that_looks_like_a_table_is_none() -> None:
    text = 'a = """\n[x]\nb = 1\n"""\nc = [\n[1],\n[2]]\nd = 4\n'
    assert {at: line for at, line in lines_of(text).items() if len(at) == 1} == {
        ("a",): 1,
        ("c",): 5,
        ("d",): 8,
    }


def test_each_value_knows_its_source(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = file.with_name("url")
    secret.write_text("postgresql://u:p@h/db\n")
    monkeypatch.setenv("DATABASE_URL_FILE", str(secret))
    monkeypatch.setenv("IB_GATEWAY_HOST", "gw")
    monkeypatch.setenv("GATEWAY_BROKER_STOP_GRACE", "3")
    monkeypatch.setenv("GATEWAY_BROKER_GATEWAYS__PAPER__PORT", "4003")
    monkeypatch.setenv("GATEWAY_BROKER_GATEWAYS__LIVE", '{"host": "gw-live", "kind": "live"}')
    found = read_configuration(lease_limit=7)
    assert found.settings.database_url == "postgresql://u:p@h/db"
    assert found.settings.gateways["live"].host == "gw-live"
    named = {
        ("lease_limit",): "--lease-limit",
        ("stop_grace",): "GATEWAY_BROKER_STOP_GRACE",
        ("database_url",): "DATABASE_URL_FILE",
        ("gateways", "default", "host"): "IB_GATEWAY_HOST",
        ("gateways", "default", "port"): "default",
        ("gateways", "paper", "host"): f"{file}, line 5",
        ("gateways", "paper", "port"): "GATEWAY_BROKER_GATEWAYS__PAPER__PORT",
        ("gateways", "paper"): "GATEWAY_BROKER_GATEWAYS__PAPER__PORT",
        ("gateways", "live", "kind"): "GATEWAY_BROKER_GATEWAYS__LIVE",
        ("gateways", "live", "port"): "default",
        ("session_limit",): f"{file}, line 2",
        ("retention_days",): "default",
    }
    assert {at: str(found.origins.of(at)) for at in named} == named


@pytest.mark.requirement("AC-013")
def test_all_that_is_wrong_is_told_at_once_each_with_its_source(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("sesion_limit = 3\nstop_grace = -1\n[gateways.paper]\nhots = 'x'\n")
    monkeypatch.setenv("IB_GATEWAY_PORT", "nope")
    monkeypatch.setenv("GATEWAY_BROKER_SESION_LIMIT", "3")
    monkeypatch.setenv("GATEWAY_BROKER_GATEWAYS__PAPER__MAINTENANCE", "ibkr-europe")
    monkeypatch.setenv("DATABASE_URL_FILE", "/nowhere/url")
    assert sorted(re.split(r" \(|, unable", line)[0] for line in refused()) == [
        f"GATEWAY_BROKER_SESION_LIMIT: {NO_SUCH}; did you mean GATEWAY_BROKER_SESSION_LIMIT?",
        "database_url: /nowhere/url cannot be read: No such file or directory",
        "gateways.default.port: Input should be a valid integer",
        "gateways.paper.hots: there is no such setting; did you mean host?",
        "gateways.paper.maintenance: Input should be a valid list",
        "sesion_limit: there is no such setting; did you mean session_limit?",
        "stop_grace: Input should be greater than 0",
    ]
    named = "\n".join(refused())
    for source in (
        "'nope' in IB_GATEWAY_PORT",
        "in DATABASE_URL_FILE",
        f"got -1 in {file}, line 2",
        f"in {file}, line 4",
        "got 'ibkr-europe' in GATEWAY_BROKER_GATEWAYS__PAPER__MAINTENANCE",
    ):
        assert source in named


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("host = 'x'", "host: is a setting of a table: it belongs below [gateways.NAME]"),
        (
            "[gateways.paper]\nstop_grace = 3",
            "gateways.paper.stop_grace: is a setting of the broker, not of a table",
        ),
        ("[gateways.Paper]", "gateways.Paper: a name is lower-case letters"),
        ("colour = 'red'", "colour: there is no such setting; there are: gateways, grpc_listen"),
    ],
)
def test_a_setting_in_the_wrong_place_is_told_its_own(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    [only] = refused()
    assert only.startswith(says)
    assert f"in {file}, line" in only


def test_all_that_is_wrong_between_settings_is_told_with_its_source_too(file: Path) -> None:
    file.write_text(
        "grpc_listen = '0.0.0.0:1'\n"
        "[gateways.a]\nhost='localhost'\n[gateways.b]\nhost='::1'\n[gateways.C]\nport=1\n"
    )
    same, name, listen = refused()
    assert same.startswith("gateways.b: is the same Gateway as gateways.a")
    assert same.endswith(f"(in {file}, line 4)")
    assert name.endswith(f"(in {file}, line 6)")
    assert listen.startswith("grpc_listen: 0.0.0.0:1 is beyond loopback")
    assert listen.endswith(f"(in {file}, line 1)")


def test_a_url_and_a_file_of_it_are_not_both_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text("")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "url"))
    assert refused() == [f"database_url: {tmp_path / 'url'} is empty (in DATABASE_URL_FILE)"]
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@h/db")
    assert refused() == [
        "database_url: DATABASE_URL is set as well: say it once (in DATABASE_URL_FILE)"
    ]


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Kubernetes sets these for Services named gateway-broker and ib-gateway.
    for name in (
        *("GATEWAY_BROKER_SERVICE_HOST", "GATEWAY_BROKER_SERVICE_PORT_GRPC"),
        *("GATEWAY_BROKER_PORT", "GATEWAY_BROKER_PORT_50051_TCP_ADDR"),
        *("IB_GATEWAY_SERVICE_PORT", "GATEWAY_BROKER_METRICS_SERVICE_HOST"),
        "GATEWAY_BROKER_METRICS_PORT",
    ):
        monkeypatch.setenv(name, "tcp://10.0.0.1:50051")
    monkeypatch.setenv("GATEWAY_BROKER_IMAGE", "x")
    monkeypatch.setenv("LOG_LEVEL_FILE", "/nowhere")
    found = read_configuration()
    assert found.strays == ("GATEWAY_BROKER_IMAGE",)
    assert found.settings.log_level == "INFO"


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_BROKER_SESSION_LIMIT", "")
    monkeypatch.setenv("IB_GATEWAY_PORT", "")
    assert read_configuration().settings.session_limit == 10


def test_a_port_that_kubernetes_has_set_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IB_GATEWAY_PORT", "tcp://10.0.0.1:4002")
    [only] = refused()
    assert "enableServiceLinks" in only


@pytest.mark.requirement("AC-015")
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("postgresql:///db?host=/run&password=p", "postgresql:///db?host=/run&password=***"),
        ("postgresql://h/db?pass%77ord=p&sslmode=require", "postgresql://h/db?pass%77ord=***&sslmode=require"),
        ("postgresql://u:p/q@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:p?q@h/db", "postgresql://***"),
        ("postgresql://u:p#q@h/db", "postgresql://***"),
        ("postgresql://h/db?password=p@q", "postgresql://***"),
        ("https://h/x?api_key=p&sig=q&a=1", "https://h/x?api_key=***&sig=***&a=1"),
        ("not a url", "not a url"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert masked(("anything",), url) == shown


@pytest.mark.requirement("AC-015")
@given(st.text(string.printable, min_size=6, max_size=20).map(lambda text: f"hunter2{text}"))
def test_no_password_of_an_address_is_ever_shown(password: str) -> None:
    for url in (f"postgresql://u:{password}@h/db", f"postgresql://h/db?password={password}"):
        assert "hunter2" not in masked(("database_url",), url)


@pytest.mark.parametrize("url", ["postgres:hunter2", "mysql://hunter2", "hunter2@h", "hunter2"])
def test_an_address_that_is_refused_is_not_shown_at_all(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    [only] = refused()
    assert only.startswith("database_url: must begin with postgresql://")
    assert only.endswith("(in DATABASE_URL)")
    assert "hunter2" not in only


def test_a_setting_that_is_a_secret_by_its_name_is_never_shown() -> None:
    assert masked(("console", "password"), "p") == "***"
    assert masked(("token_file",), "/run/token") == "/run/token"


def test_every_variable_that_the_code_names_is_known() -> None:
    root = Path(config.__file__).parents[1]
    places = [*root.glob("broker/**/*.py"), *root.glob("clients/python/ibgateway/client/*.py")]
    named = {
        name
        for path in places
        for name in re.findall(r"GATEWAY_BROKER_[A-Z0-9_]+[A-Z0-9]", path.read_text())
    }
    known = {config.PREFIX + field.upper() for field in config.Settings.model_fields}
    known |= config.NO_SETTINGS
    assert named - known == set(), "neither a setting nor one of config.NO_SETTINGS"
