"""What the Dockerfile does, done here without Docker: installed, started, weighed."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.deployment.tools import ROOT, ask
from tests.program import FREE_PORTS, Said, ended, environment, free_address, missing, until

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
LIMIT = 500
"""Megabytes that the image may have."""
BASE = 150
"""Megabytes of python:3.11-slim-bookworm, rounded up: it has 130."""
PIN = re.compile(r"^([\w.-]+)==([\w.]+)( ;.*)?\\?", re.MULTILINE)


def copied() -> list[str]:
    """What the first stage copies from the tree."""
    lines = re.findall(r"^COPY (.+)$", STAGES[0], re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_hadolint_finds_nothing() -> None:
    ask("hadolint", "Dockerfile")


def test_the_builder_is_sent_just_what_is_copied() -> None:
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(allowed) == sorted(copied())
    assert all((ROOT / name).exists() for name in allowed)


def test_the_last_stage_is_an_ordinary_user_without_tools() -> None:
    assert "USER 10001:10001" in STAGES[-1]
    assert 'CMD ["gateway-broker", "health"]' in STAGES[-1]
    assert not re.search(r"apt-get|pip |gcc|curl", STAGES[-1])


def test_the_image_has_the_releases_that_are_tested() -> None:
    tested = pins("dev")
    for name in ("run", "build"):
        assert pins(name).items() <= tested.items()


def pins(name: str) -> dict[tuple[str, str], str]:
    """The releases of a lock, by name and marker."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {(found[0], found[2].strip(" \\")): found[1] for found in PIN.findall(text)}


@pytest.mark.timeout(400)
async def test_what_is_installed_starts_as_an_ordinary_user_and_leaves_room() -> None:
    with nobodys_directory() as place:
        prefix = place / "opt"
        await asyncio.to_thread(install, place / "src", prefix)
        assert megabytes(prefix) <= LIMIT - BASE
        assert not [path.name for path in (prefix / "bin").iterdir() if "pip" in path.name]
        # It names the folder of the build, another one each time: two images would differ.
        assert not [*prefix.rglob("direct_url.json")]
        packaged = [*prefix.glob("lib/*/site-packages/broker")]
        assert len(packaged) == 1
        for needed in ("migrations/versions/0001_sessions.py", "store/queries.sql"):
            assert (packaged[0] / needed).exists()
        # Files that Python compiles when it meets them would be missing for a user who may not
        # write there, at every start.
        assert [*packaged[0].glob("__pycache__/app.*.pyc")]
        await it_brokers(place, prefix / "bin" / "gateway-broker")
        await it_serves(place, prefix / "bin" / "gateway-broker")


async def it_brokers(place: Path, program: Path) -> None:
    """`dev` migrates its database, and a session can be opened."""
    async with started(
        *(place, program, "dev", "--grpc-listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0"),
        *("--data-dir", str(place / "data"), *FREE_PORTS),
    ) as process:
        banner = await until(process, "Ctrl-C stops all of it")
        [address] = re.findall(r"gRPC +(\S+)", banner)
        opened = await run(place, program, "sessions", "open", "--broker", address, "-o", "json")
        assert opened.code == 0, opened.err
        assert json.loads(opened.out)["state"] == "SESSION_STATE_CONNECTED"


async def it_serves(place: Path, program: Path) -> None:
    """`serve` is healthy though there is no Gateway, as the health check of the image asks."""
    address = free_address()
    settings = {
        "IB_GATEWAY_PORT": free_address().rpartition(":")[2],
        "GATEWAY_BROKER_GRPC_LISTEN": address,
        "GATEWAY_BROKER_DATA_DIR": str(place / "data"),
        "PROMETHEUS_PORT": "0",
        "GATEWAY_BROKER_HTTP_LISTEN": "127.0.0.1:0",
    }
    async with started(place, program, "serve", **settings) as process:
        async with asyncio.timeout(40):
            while (health := await run(place, program, "health", **settings)).code:
                assert process.returncode is None, health.err
        assert health.out == "SERVING\n"
        process.terminate()
        stopped = await ended(process)
        assert stopped.code == 0, stopped.err


def install(tree: Path, prefix: Path) -> None:
    """The first stage: what it copies, where it is not the tree, and what it runs."""
    for name in copied():
        source, target = ROOT / name, tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    assert "deploy/install.sh /opt/gateway-broker" in STAGES[0]
    done = subprocess.run(
        [tree / "deploy" / "install.sh", prefix],
        env={**environment(), "PYTHON": python()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def python() -> str:
    """An interpreter that an ordinary user can run: root's own often lies below /root."""
    for candidate in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        runnable = not ordinary() or passable(Path(candidate).resolve())
        if runnable and usable(candidate):
            return candidate
    missing("no Python 3.11 with ensurepip that an ordinary user can run (Debian: python3-venv)")
    raise AssertionError


def usable(interpreter: str) -> bool:
    question = "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"
    done = subprocess.run([interpreter, "-c", question], capture_output=True, check=False)
    return done.returncode == 0


def passable(path: Path) -> bool:
    return all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


def ordinary() -> pwd.struct_passwd | None:
    """Whom to start the broker as; None is oneself, if that is not root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


@asynccontextmanager
async def started(
    place: Path, program: Path, *arguments: str, **settings: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The installed command as an ordinary user, outside the tree; killed if it still runs."""
    user = ordinary()
    who: dict[str, Any] = {}
    if user is not None:
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        cwd=place,
        env={**environment(**settings), "HOME": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        **who,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await ended(process)


async def run(place: Path, program: Path, *arguments: str, **settings: str) -> Said:
    async with started(place, program, *arguments, **settings) as process:
        return await ended(process)


@pytest.mark.parametrize("name", ["run", "build", "deploy"])
def test_a_lock_names_no_address(name: str) -> None:
    assert "://" not in (ROOT / "requirements" / f"{name}.txt").read_text()


def megabytes(path: Path) -> float:
    return sum(file.lstat().st_size for file in path.rglob("*")) / 1e6


@contextmanager
def nobodys_directory() -> Iterator[Path]:
    """A directory that an ordinary user can pass through, with one of his own in it for data."""
    place = Path(tempfile.mkdtemp(prefix="gbi-"))
    place.chmod(0o755)
    data = place / "data"
    data.mkdir(mode=0o700)
    if (user := ordinary()) is not None:
        os.chown(data, user.pw_uid, user.pw_gid)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
