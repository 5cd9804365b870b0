"""The order of checks, their bounds, and what numbers mean."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from broker.config import read_configuration
from broker.doctor.check import Check, Finding, Result, Status, examine, ok, warning, wrong
from broker.doctor.database import skew
from broker.doctor.doubts import Doubt, doubts
from broker.doctor.table import checks


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
