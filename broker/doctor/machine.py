"""Checks of the machine and the process: Python, open files, the event loop, the data directory."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import resource
import shutil
import stat
from pathlib import Path
from typing import Final

from broker.doctor.case import Case
from broker.doctor.check import Finding, Status, ok, warning, wrong
from broker.errors import StartupError
from broker.store.binaries import reachable
from broker.store.embedded import has_cluster, running_url, unprivileged_user

_LIBRARIES: Final = ("ib_async", "grpcio", "protobuf", "asyncpg", "pydantic", "ibgateway-client")
_RIVAL: Final = "ib_insync"
"""It overwrites the package eventkit that ib_async needs."""

_FILES_BESIDE: Final = 64
"""Open files of a broker beside its connections: database, logs, libraries."""
_FILES_FOR_CALLERS: Final = 1024

_TICKS: Final = 20
_TICK: Final = 0.005
_LAG: Final = 0.25
"""Seconds that a timer may be late on a machine that has time for us."""

_MB: Final = 1024 * 1024


async def python(_case: object) -> Finding:
    """Versions of Python and of the libraries."""
    found = {}
    for name in ("gateway-broker", *_LIBRARIES, "uvloop"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return wrong(
                f"{name} is not installed",
                "Install the broker anew: pip install . (or make install in its tree).",
            )
    text = f"Python {platform.python_version()}, " + ", ".join(
        f"{name} {version}" for name, version in found.items()
    )
    if any(importlib.metadata.distributions(name=_RIVAL)):
        return wrong(
            f"{_RIVAL} is installed beside ib_async: they overwrite each other's eventkit",
            f"Run: pip uninstall {_RIVAL} eventkit, and install the broker anew; or give the "
            "broker an environment of its own.",
        )
    return ok(text)


async def event_loop(_case: object) -> Finding:
    """Whether timers come in time: heartbeats and deadlines depend on it."""
    loop = asyncio.get_running_loop()
    late = 0.0
    for _ in range(_TICKS):
        due = loop.time() + _TICK
        await asyncio.sleep(_TICK)
        late = max(late, loop.time() - due)
    kind = type(loop).__module__.partition(".")[0]
    text = f"{kind}; a timer is late by {late * 1000:.0f} ms at most"
    if late > _LAG:
        return warning(
            text,
            "The machine is too busy: give the broker more CPU, or heartbeats will be answered "
            "late and connections be taken for lost.",
        )
    return ok(text)


async def open_files(case: Case) -> Finding:
    """Whether the process may open as many files as sessions and callers need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ok("no limit of open files")
    settings = case.settings
    needed = settings.session_limit + len(settings.gateways) + _FILES_BESIDE
    text = f"{soft:,} open files (ulimit -n): {settings.session_limit} sessions need {needed:,}"
    advice = (
        f"Raise it: LimitNOFILE= in a systemd unit, ulimits: nofile in Compose, or ulimit -n "
        f"({hard:,} at most here)."
    )
    if soft < needed:
        return wrong(f"{text}; connections will fail", advice)
    if soft < needed + _FILES_FOR_CALLERS // 2:
        return warning(f"{text}, which leaves {soft - needed:,} for callers", advice)
    return ok(f"{text}, which leaves {soft - needed:,} for callers")


async def data_directory(case: Case) -> Finding:
    """Whether the broker's own PostgreSQL can live in the data directory."""
    if case.settings.database_url is not None:
        case.dsn = case.settings.database_url
        return ok("none is needed: the record is in DATABASE_URL")
    path = case.settings.data_dir.absolute()
    try:
        existing = next(place for place in (path, *path.parents) if place.exists())
        misplaced = _place(path, existing)
        if misplaced is not None and misplaced.status is Status.WRONG:
            return misplaced
        case.dsn = running_url(path)
        old = has_cluster(path)
    except PermissionError as error:
        return wrong(
            f"{path} belongs to another user: {error.strerror}",
            "Run the broker, and its doctor, as the user that the directory belongs to, or set "
            "GATEWAY_BROKER_DATA_DIR to another one.",
        )
    return misplaced or _room(path, existing, old=old)


def _place(path: Path, existing: Path) -> Finding | None:
    if not existing.is_dir():
        return wrong(f"{existing} is no directory", "Set GATEWAY_BROKER_DATA_DIR to another one.")
    if not os.access(existing, os.W_OK | os.X_OK):
        what = "cannot be written" if existing == path else f"cannot be made in {existing}"
        return wrong(
            f"{path} {what} by this user (uid {os.geteuid()})",
            f"Give it to the broker's user: install -d -o USER -m 700 {path}; or set "
            "GATEWAY_BROKER_DATA_DIR to another directory.",
        )
    if os.geteuid() == 0 and not _servers_user_reaches(existing):
        return wrong(
            f"PostgreSQL does not run as root, and no user 'postgres' or 'nobody' can pass "
            f"through {existing}",
            "Set GATEWAY_BROKER_DATA_DIR to a directory that others can pass through, such as "
            "/var/lib/gateway-broker, or run the broker as an ordinary user.",
        )
    if existing == path and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return warning(
            f"others than its owner can write to {path}",
            f"Whoever can, can replace the record. Run: chmod go-w {path}",
        )
    return None


def _servers_user_reaches(path: Path) -> bool:
    try:
        return reachable(path, unprivileged_user())
    except StartupError:  # there is no such user
        return False


def _room(path: Path, existing: Path, *, old: bool) -> Finding:
    free = shutil.disk_usage(existing).free // _MB
    text = f"{path}, {'with' if old else 'still without'} a record; {free:,} MB are free"
    advice = (
        "Make room, or set GATEWAY_BROKER_DATA_DIR to a larger file system; a full one stops the "
        "record, and new sessions are refused then. Lower retention_days or retention_events."
    )
    if free < 200:
        return wrong(text, advice)
    return warning(text, advice) if free < 1024 else ok(text)
