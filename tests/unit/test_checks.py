"""The order of checks, their bounds, and what numbers mean."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.config import Configuration, Settings, read_configuration
from broker.doctor.case import Case, RunningBroker
from broker.doctor.check import Check, Finding, Result, Status, examine, ok, warning, wrong
from broker.doctor.database import skew
from broker.doctor.doubts import Doubt, doubts
from broker.doctor.table import checks
from broker.provenance import Origins
from tests.access import make, settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("GATEWAY_BROKER_", "IB_GATEWAY_", "DATABASE_URL", "LOG_LEVEL")):
            monkeypatch.delenv(name)


async def examined(*rows: Check[list[str]], timeout: float = 5.0) -> dict[str, Result]:
    told: list[str] = []
    results = await examine(
        rows,
        [],
        timeout=timeout,
        tell=lambda result: told.append(result.name),
        waits=lambda _: None,
    )
    assert told == [row.name for row in rows]
    return {result.name: result for result in results}


def says(finding: Finding) -> Check[list[str]]:
    async def run(_: list[str]) -> Finding:
        return finding

    return Check(finding.text, run)


async def test_what_needs_a_check_that_is_wrong_is_skipped_and_names_the_first_of_the_chain() -> (
    None
):
    ran = []

    async def run(_: list[str]) -> Finding:
        ran.append(True)
        return ok("ran")

    found = await examined(
        says(wrong("bad", "")),
        says(warning("doubtful", "")),
        Check("second", run, needs=("bad",)),
        Check("third", run, needs=("second",)),
        Check("beside", run, needs=("doubtful",), after=("bad", "third")),
    )
    assert [found[name].finding.status for name in ("second", "third", "beside")] == [
        *(Status.SKIPPED, Status.SKIPPED, Status.OK),
    ]
    assert (found["second"].because, found["third"].because) == ("bad", "bad")
    assert len(ran) == 1


async def test_checks_that_do_not_depend_run_at_the_same_time_and_dependent_ones_in_order() -> None:
    met = asyncio.Barrier(2)
    order = []

    async def meet(_: list[str]) -> Finding:
        await met.wait()
        order.append("met")
        return ok("met")

    async def follow(_: list[str]) -> Finding:
        order.append("followed")
        return ok("followed")

    await examined(Check("a", meet), Check("b", meet), Check("c", follow, after=("a", "b")))
    assert order == ["met", "met", "followed"]


async def test_a_check_that_hangs_ends_with_the_time_of_all_and_the_others_are_told() -> None:
    async def hang(_: list[str]) -> Finding:
        await asyncio.sleep(3600)
        raise AssertionError

    found = await examined(Check("hangs", hang), says(ok("well")), timeout=0.1)
    assert found["hangs"].finding.status is Status.WRONG
    assert "longer than all checks may, 0.1 s" in found["hangs"].finding.text
    assert found["well"].finding.status is Status.OK


async def test_a_check_that_fails_itself_does_not_end_the_others() -> None:
    async def fail(_: list[str]) -> Finding:
        raise KeyError("x")

    found = await examined(Check("fails", fail), says(ok("well")))
    assert "the check itself failed: KeyError: 'x'" in found["fails"].finding.text
    assert found["well"].finding.status is Status.OK


@pytest.mark.parametrize(
    ("ahead", "error", "status", "text"),
    [
        (0.2, 0.1, Status.OK, "differ by less than 1 s"),
        (-2.4, 0.5, Status.OK, "differ by about 2 s"),
        (3600.0, 0.5, Status.WARNING, "3,600 s ahead of this machine's"),
        (-90.0, 0.5, Status.WARNING, "90 s behind this machine's"),
    ],
)
def test_a_clock_that_differs_by_more_than_can_be_measured_is_a_warning(
    ahead: float, error: float, status: Status, text: str
) -> None:
    finding = skew("the Gateway's", ahead, error)
    assert finding.status is status
    assert finding.text.startswith("the Gateway's clock")
    assert text in finding.text


def test_every_check_names_only_checks_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_BROKER_GATEWAYS__LIVE__PORT", "4001")
    seen: set[str] = set()
    for row in checks(read_configuration().settings):
        assert {*row.needs, *row.after} <= seen, row.name
        assert row.name not in seen
        seen.add(row.name)
    assert "gateway live: connection" in seen


class _More(Settings):
    """As the configuration will be once something else listens, too."""

    http_listen: str = "127.0.0.1:0"
    metrics_port: int | None = None


def case(**values: Any) -> Case:
    async def ask(address: str) -> RunningBroker | None:
        return RunningBroker(address, ()) if values.get("running") else None

    settings = _More(**{name: value for name, value in values.items() if name != "running"})
    configuration = Configuration(settings, Origins(), None, ())
    return Case(configuration, ask=ask, now=lambda: datetime.now(UTC))


async def seen(name: str, **values: Any) -> Finding:
    """What a check of the table, and those before it, find."""
    looked_at = case(**values)
    rows = [row for row in checks(looked_at.settings) if row.name in (name, "grpc_listen")]
    results = await examine(rows, looked_at, timeout=5, tell=lambda _: None, waits=lambda _: None)
    return next(result.finding for result in results if result.name == name)


async def test_whatever_else_listens_is_looked_at_without_a_word_from_us() -> None:
    assert (await seen("metrics_port")).text == "not used"
    assert (await seen("http_listen", http_listen="127.0.0.1:0")).status is Status.OK
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        here = f"127.0.0.1:{port}"
        for name, value in (("http_listen", here), ("metrics_port", port)):
            finding = await seen(name, **{name: value})
            assert finding.status is Status.WRONG
            assert f"{here} cannot be listened on" in finding.text
            assert f"sport = :{port}" in finding.advice
        with socket.socket() as grpc:
            grpc.bind(("127.0.0.1", 0))
            grpc.listen()
            there = f"127.0.0.1:{grpc.getsockname()[1]}"
            ours = await seen("http_listen", http_listen=here, grpc_listen=there, running=True)
        assert ours.text == f"{here} is taken, by the running broker as it seems"


async def test_too_few_open_files_are_found_before_they_are_missed() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
    try:
        few = await seen("open files", session_limit=100)
        none = await seen("open files", session_limit=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (few.status, none.status) == (Status.WARNING, Status.WRONG)
    assert "LimitNOFILE" in none.advice
    assert "connections will fail" in none.text


async def test_a_library_that_breaks_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await seen("python")).status is Status.OK
    rival = tmp_path / "ib_insync-0.9.86.dist-info"
    rival.mkdir()
    (rival / "METADATA").write_text("Metadata-Version: 2.1\nName: ib_insync\nVersion: 0.9.86\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = await seen("python")
    assert found.status is Status.WRONG
    assert "pip uninstall ib_insync" in found.advice


async def test_a_loop_that_has_no_time_is_told() -> None:
    async def hog() -> None:
        for _ in range(3):
            await asyncio.sleep(0.02)
            time.sleep(0.4)  # noqa: ASYNC251 - that is the finding

    async with asyncio.TaskGroup() as group:
        group.create_task(hog(), name="hog")
        finding = await seen("event loop")
    assert finding.status is Status.WARNING
    assert "too busy" in finding.advice


@pytest.fixture
def open_data_dir(fresh_data_dir: Path) -> Path:
    fresh_data_dir.chmod(0o777)
    return fresh_data_dir


async def test_a_data_directory_that_others_can_write_to_is_a_warning(open_data_dir: Path) -> None:
    assert (await seen("data directory", data_dir=open_data_dir / "new")).status is Status.OK
    found = await seen("data directory", data_dir=open_data_dir)
    assert found.status is Status.WARNING
    assert "chmod go-w" in found.advice


@pytest.fixture
def closed_dir(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as somebody else")
async def test_a_data_directory_that_the_servers_user_cannot_reach_is_wrong(
    closed_dir: Path,
) -> None:
    found = await seen("data directory", data_dir=closed_dir / "data")
    assert found.status is Status.WRONG
    assert "can pass through" in found.text


def doubted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> dict[str, Doubt]:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    file.chmod(0o644)
    monkeypatch.setenv("GATEWAY_BROKER_CONFIG", str(file))
    return {doubt.field: doubt for doubt in doubts(read_configuration())}


def test_a_configuration_that_is_meant_raises_no_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@h/db")
    assert doubted(tmp_path, monkeypatch, "[gateways.default]\nkind = 'paper'") == {}


def test_what_is_probably_not_meant_is_doubted_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_BROKER_COLOUR", "red")
    found = doubted(
        tmp_path,
        monkeypatch,
        """
        database_url = "postgresql://u:hunter2@h/db"
        data_dir = "/var/lib/x"
        session_limit = 70
        grpc_listen = "0.0.0.0:1"
        insecure_no_auth = true
        [gateways.paper]
        host = "a"
        port = 4001
        kind = "paper"
        client_ids = "1-9"
        [gateways.live]
        host = "b"
        retry_initial_delay = 9
        retry_max_delay = 3
        heartbeat_interval = 2
        """,
    )
    assert {field: doubt.source.rpartition(", ")[2] for field, doubt in found.items()} == {
        "GATEWAY_BROKER_COLOUR": "the environment",
        "database_url": "line 2",
        "data_dir": "line 3",
        "session_limit": "line 4",
        "insecure_no_auth": "line 6",
        "gateways": "line 7",
        "gateways.paper.port": "line 9",
        "gateways.paper.client_ids": "line 11",
        "gateways.live.kind": "line 12",
        "gateways.live.retry_initial_delay": "line 14",
        "gateways.live.heartbeat_timeout": "line 12",
    }
    assert "4001 is usually live" in found["gateways.paper.port"].text
    assert "chmod 600" in found["database_url"].advice
    assert "hunter2" not in repr(found)


def test_serve_says_itself_what_its_log_has_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = doubted(tmp_path, monkeypatch, "auto_migrate = true\n[gateways.default]\nkind = 'live'")
    assert found["database_url"].told
    assert not found["auto_migrate"].told
    assert found["gateways.default.port"].text == "4002 is usually paper, and the kind is live"


@pytest.mark.parametrize(
    ("text", "field", "told"),
    [
        (
            "access_file = 'a'\nhttp_listen = '0.0.0.0:8080'",
            "http_listen",
            "the console is plain HTTP beyond loopback: tokens can be read on their way",
        ),
        ("metrics_host = '::'", "metrics_host", "whoever connects can read the metrics"),
        (
            "insecure_no_auth = true\ngrpc_listen = '0.0.0.0:1'",
            "insecure_no_auth",
            "whoever reaches the port can open and close sessions",
        ),
        (
            "insecure_no_auth = true\ngrpc_listen = '0.0.0.0:1'\naccess_file = 'a'",
            "insecure_no_auth",
            "callers are known, but tokens can be read on their way",
        ),
    ],
)
def test_what_others_can_read_or_do_is_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, field: str, told: str
) -> None:
    assert told in doubted(tmp_path, monkeypatch, text)[field].text


@pytest.mark.parametrize(
    "text",
    [
        "access_file = 'a'",
        "access_file = 'a'\nhttp_listen = 'off'",
        "http_listen = '0.0.0.0:8080'",
        "metrics_host = '0.0.0.0'\nmetrics = false",
    ],
)
def test_what_nobody_else_can_read_is_not_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    found = doubted(tmp_path, monkeypatch, text)
    assert not {"http_listen", "metrics_host", "insecure_no_auth"} & set(found)


async def test_the_port_of_metrics_is_looked_at_where_metrics_are() -> None:
    assert (await seen("prometheus_port", metrics=False)).text == "not used"
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = await seen("prometheus_port", prometheus_port=port, metrics_host="127.0.0.2")
    assert f"127.0.0.2:{port} cannot be listened on" in finding.text


async def test_files_that_serve_would_take_are_ok_and_a_certificate_that_expires_soon_is_told(
    tmp_path: Path,
) -> None:
    assert (await seen("access files")).text == "none are configured"
    trial = make(tmp_path)
    fine = await seen("access files", **settings(trial, mutual=True))
    assert fine.status is Status.OK
    assert "the certificate expires at" in fine.text
    looked_at = case(**settings(trial))
    looked_at.now = lambda: datetime.now(UTC) + timedelta(days=20)
    [row] = [row for row in checks(looked_at.settings) if row.name == "access files"]
    soon = await row.run(looked_at)
    assert soon.status is Status.WARNING
    assert "Renew it" in soon.advice


async def test_every_file_that_serve_would_refuse_is_named_with_its_setting(tmp_path: Path) -> None:
    trial = make(tmp_path)
    given = settings(trial, mutual=True)
    trial.access_file.chmod(0o644)
    trial.key.chmod(0o644)
    finding = await seen("access files", **given)
    assert finding.status is Status.WRONG
    assert f"access_file: {trial.access_file}: can be read by everybody" in finding.text
    assert f"tls_key: {trial.key}: can be read by everybody" in finding.text
    trial.key.unlink()
    finding = await seen("access files", **given)
    assert f"tls_key: {trial.key}: No such file or directory" in finding.text
    trial.ca.write_text("no PEM")
    trial.key.write_bytes(b"")
    trial.access_file.chmod(0o600)
    trial.access_file.write_text("one two\nthree\n")
    text = (await seen("access files", **given)).text
    assert "tls_key" in text
    assert "is refused: line 1:" in text
    assert "\n" not in text
