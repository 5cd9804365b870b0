"""The program that a client's README begins with, run as it stands: it is what users try first."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc.aio
from ibgateway.broker.v1 import session_pb2, session_service_pb2_grpc
from ibgateway.broker.v1 import session_service_pb2 as pb

from clients.conformance.processes import Process, ProcessError
from tests.harness import eventually

HEADING: Final = "## A watched session"
ADDRESS: Final = "127.0.0.1:50051"
_BUILDS: Final = 1800.0
"""Seconds until it says CONNECTED: a compiler may begin with nothing."""
_ENDS: Final = 60.0
_CALL: Final = 20.0
_BUILT: Final = ("node_modules", "target", "build", "dist", "__pycache__")
"""Directories that builds make, and that the program must do without."""


class ReadmeError(Exception):
    """The README's program does not do what it says."""


def block(readme: Path, language: str) -> str:
    """The program.

    Raises:
        ReadmeError: the README has none.
    """
    section = readme.read_text(encoding="utf-8").partition(f"{HEADING}\n")[2].partition("\n## ")[0]
    found = re.search(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ReadmeError(f"{readme} has no block of {language} under {HEADING!r}")
    return found[1]


async def run(
    directory: Path, language: str, address: str, env: Mapping[str, str], ends: Any
) -> None:
    """Run it against a live broker, press Ctrl-C, and see that its session is closed.

    It runs in a copy of what it needs of the project, so that what it makes in ``trial/`` is not
    the user's own.

    Args:
        directory: the client's, two below the project's root.
        language: of the block.
        address: the broker's.
        env: all of the environment.
        ends: the exit codes that are right.

    Raises:
        ReadmeError: it does something else.
    """
    text = block(directory / "README.md", language)
    if ADDRESS not in text:
        raise ReadmeError(f"the program does not name {ADDRESS}")
    text = text.replace(ADDRESS, address)
    with tempfile.TemporaryDirectory(prefix="readme-") as path:
        copy = Path(path)
        shutil.copytree(directory.parents[1] / "proto", copy / "proto")
        shutil.copytree(
            directory, copy / "clients" / directory.name, ignore=shutil.ignore_patterns(*_BUILT)
        )
        if language == "python":
            (copy / "watched_session.py").write_text(text, encoding="utf-8")
            text = f"exec {shlex.quote(sys.executable)} -u watched_session.py"
        process = await Process.start(
            ["bash", "-eu", "-o", "pipefail", "-c", text],
            name="the README's program",
            cwd=copy,
            env=env,
            merged=True,
        )
        try:
            await _watched(process, address, ends)
        except ProcessError as error:
            raise ReadmeError(str(error)) from None
        finally:
            await process.end(signal.SIGKILL)


async def _watched(process: Process, address: str, ends: Any) -> None:
    await process.read_until("CONNECTED", _BUILDS)
    mine = await _sessions(address)
    if not mine:
        raise ReadmeError("it says CONNECTED, and no session is open")
    process.send(signal.SIGINT)
    left = await process.rest(_ENDS)
    if process.code not in ends:
        raise ReadmeError(f"on Ctrl-C it has ended with code {process.code}: {left[-2000:]}")

    async def none_is_open() -> bool:
        return not await _sessions(address)

    try:
        # The last call that a client makes may be answered to nobody.
        await eventually(none_is_open, _CALL)
    except TimeoutError:
        raise ReadmeError("Ctrl-C has not closed its session") from None
    for session in await _sessions(address, [each.session_id for each in mine]):
        if session.close_reason != "CLOSE_REQUESTED":
            raise ReadmeError(
                f"Ctrl-C has not closed its session; how it ended: {session.close_reason}"
            )


async def _sessions(address: str, final: Any = ()) -> list[session_pb2.Session]:
    """Those that are open, or those with these ids."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = session_service_pb2_grpc.SessionServiceStub(channel)
        request = pb.ListSessionsRequest(session_ids=final, include_final=bool(final))
        page = await stub.ListSessions(request, timeout=_CALL)
    return list(page.sessions)
