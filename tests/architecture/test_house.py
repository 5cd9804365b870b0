"""What the house looks like: who imports whom, who reads the environment, how long a module is."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROKER = ROOT / "broker"
MODULES = sorted(BROKER.rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in MODULES]

# Who may import a third-party library; a name ending in / is a folder.
IMPORTERS = {
    "ib_async": ("gateway/ib.py",),
    "pybreaker": ("gateway/breaker.py",),
    "asyncpg": ("store/postgres.py",),
    "cryptography": ("access/certificates.py",),
    "grpc": ("rpc/", "simulator/control.py", "cli/client.py"),
    "aiohttp": ("http/",),
    "grpc_status": ("rpc/boundary.py",),
    "structlog": ("telemetry/",),
    "opentelemetry": ("telemetry/",),
    "prometheus_client": ("telemetry/",),
    "alembic": ("store/migration.py",),
    "sqlalchemy": ("store/migration.py",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "uvloop": ("cli/",),
    "pydantic_settings": ("config.py",),
    "platformdirs": ("config.py",),
}
PURE = {"asyncio", "time", "random", "os", "socket", "logging", "uuid4", "pydantic"}


def imports(tree: ast.AST) -> Iterator[str]:
    """The top-level names of everything that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def test_the_layers_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_library_has_one_door(path: Path) -> None:
    name = path.relative_to(BROKER).as_posix()
    for library in set(imports(parse(path))) & IMPORTERS.keys():
        doors = IMPORTERS[library]
        assert any(
            name == door or (door.endswith("/") and name.startswith(door)) for door in doors
        ), f"{name} imports {library}, which only {', '.join(doors)} may"


@pytest.mark.parametrize("path", sorted((BROKER / "session").glob("*.py")), ids=lambda p: p.name)
def test_the_session_core_is_pure(path: Path) -> None:
    assert not set(imports(parse(path))) & PURE


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_only_the_configuration_reads_the_environment(path: Path) -> None:
    # What gRPC finds there is said in a module that a probe can afford to load.
    if path.relative_to(BROKER).as_posix() in {"config.py", "before_grpc.py"}:
        return
    names = {
        node.attr
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    assert not names & {"environ", "getenv", "environb"}


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_no_module_is_a_drawer(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}
    assert len(path.read_text().splitlines()) <= 600
    if path.name == "__init__.py":
        assert not path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_every_task_has_an_owner_and_a_name(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "ensure_future":
                pytest.fail(f"{path.name}:{node.lineno}: a task without a name")
            if node.func.attr == "create_task":
                assert {"name"} & {keyword.arg for keyword in node.keywords}, (
                    f"{path.name}:{node.lineno}: a task without a name"
                )


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs.py", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def events_of_the_log() -> Iterator[tuple[str, ast.expr]]:
    """What each line of ours says has happened."""
    for path in MODULES:
        for node in ast.walk(parse(path)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "logger"
            ):
                event = node.args[0]
                options = [event.body, event.orelse] if isinstance(event, ast.IfExp) else [event]
                for option in options:
                    yield f"{path.name}:{node.lineno}", option


def test_the_log_page_names_every_event_and_no_other() -> None:
    names = set()
    for where, event in events_of_the_log():
        assert isinstance(event, ast.Constant), where
        assert isinstance(event.value, str), where
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", event.value), f"{where}: facts belong to fields"
        names.add(event.value)
    page = (ROOT / "docs" / "logs.md").read_text()
    rows = re.findall(r"^\| (`[a-z_`, ]+) \|", page, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)} == names


@pytest.mark.requirement("AC-015")
def test_bandit_finds_nothing() -> None:
    shipped = ("broker", "clients/python/ibgateway/client", "migrations", "scripts")
    done = subprocess.run(
        [sys.executable, "-m", "bandit", "-q", "-c", "pyproject.toml", "-r", *shipped],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
