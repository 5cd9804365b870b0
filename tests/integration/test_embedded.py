"""The embedded PostgreSQL is started, guarded and stopped as it should be."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil
import pytest

from broker.errors import StartupError
from broker.store import binaries
from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings, running_url

ROOT = Path(__file__).resolve().parents[2]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

BROKER = """
import asyncio, sys
from pathlib import Path
from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings

async def main():
    async with EmbeddedPostgres(EmbeddedSettings(Path(sys.argv[1]))) as postgres:
        print(postgres.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def spawn(data_dir: Path) -> tuple[subprocess.Popen[str], int]:
    """Another broker's process, and its server's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", BROKER, str(data_dir)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()
    return process, int(line)


def alive(pid: int) -> bool:
    """Whether a process runs; where nobody reaps orphans, the dead stay as zombies."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def modes(path: Path) -> dict[Path, int]:
    return {part: part.stat().st_mode for part in (path, *path.parents)}


async def version(url: str) -> str:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return str(await connection.fetchval("SHOW fsync"))
    finally:
        await connection.close()


async def test_it_starts_answers_on_both_ways_and_keeps_its_data(fresh_data_dir: Path) -> None:
    settings = EmbeddedSettings(fresh_data_dir)
    assert running_url(fresh_data_dir) is None
    async with EmbeddedPostgres(settings) as postgres:
        assert await version(postgres.dsn) == await version(postgres.url) == "on"
        assert running_url(fresh_data_dir) == postgres.url
        assert postgres.url.startswith("postgresql://broker:")
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute("CREATE TABLE kept ()")
        await connection.close()
    assert running_url(fresh_data_dir) is None
    async with EmbeddedPostgres(settings) as postgres:
        connection = await asyncpg.connect(postgres.url)
        assert await connection.fetch("SELECT * FROM kept") == []
        await connection.close()


@pytest.mark.requirement("AC-015")
async def test_a_wrong_password_is_refused_on_both_ways(fresh_data_dir: Path) -> None:
    async with EmbeddedPostgres(EmbeddedSettings(fresh_data_dir)) as postgres:
        for url in (postgres.dsn, postgres.url):
            head, _, tail = url.partition("broker:")
            wrong = f"{head}broker:wrong@{tail.partition('@')[2]}"
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(wrong, timeout=5)


@pytest.mark.requirement("AC-015")
async def test_no_permission_is_loosened(fresh_data_dir: Path) -> None:
    before, wheel = modes(fresh_data_dir), modes(Path(binaries.__file__))
    old = os.umask(0)
    try:
        async with EmbeddedPostgres(EmbeddedSettings(fresh_data_dir)):
            home = fresh_data_dir / "postgres"
            assert stat.S_IMODE((home / "password").stat().st_mode) == 0o600
            assert stat.S_IMODE((home / "server").stat().st_mode) == 0o700
            assert stat.S_IMODE((home / "server" / "run").stat().st_mode) == 0o700
            assert stat.S_IMODE(home.stat().st_mode) & 0o022 == 0
    finally:
        os.umask(old)
    assert modes(fresh_data_dir) == before
    assert modes(Path(binaries.__file__)) == wheel


async def test_a_second_start_is_refused_and_names_the_process(fresh_data_dir: Path) -> None:
    settings = EmbeddedSettings(fresh_data_dir)
    async with EmbeddedPostgres(settings) as postgres:
        with pytest.raises(StartupError, match=f"process {os.getpid()};"):
            await EmbeddedPostgres(settings).__aenter__()
        assert await version(postgres.dsn) == "on"


async def test_the_server_of_a_killed_broker_is_stopped_and_replaced(fresh_data_dir: Path) -> None:
    process, orphan = await asyncio.to_thread(spawn, fresh_data_dir)
    process.kill()
    process.wait(10)
    assert alive(orphan)
    async with EmbeddedPostgres(EmbeddedSettings(fresh_data_dir)) as postgres:
        assert not alive(orphan)
        assert await version(postgres.dsn) == "on"


async def test_a_server_that_cannot_be_stopped_is_told_of_and_replaced_by_the_next(
    fresh_data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = EmbeddedSettings(fresh_data_dir)
    pid_file = fresh_data_dir / "postgres" / "server" / "data" / "postmaster.pid"
    async with EmbeddedPostgres(settings) as postgres:
        orphan = postgres.pid
        written = pid_file.read_text()
        pid_file.write_text(written.replace(str(orphan), "999999999", 1))
    [told] = [record for record in caplog.records if record.message == "database_not_stopped"]
    assert vars(told)["error"].startswith("pg_ctl failed (1): pg_ctl: ")
    assert alive(orphan)
    pid_file.write_text(written)
    async with EmbeddedPostgres(settings) as postgres:
        assert not alive(orphan)
        assert await version(postgres.dsn) == "on"


async def test_it_starts_after_broker_and_server_were_killed(fresh_data_dir: Path) -> None:
    process, server = await asyncio.to_thread(spawn, fresh_data_dir)
    process.kill()
    process.wait(10)
    os.kill(server, signal.SIGKILL)
    async with EmbeddedPostgres(EmbeddedSettings(fresh_data_dir)) as postgres:
        assert await version(postgres.dsn) == "on"


async def test_a_pid_file_whose_pid_is_now_anothers_does_not_stop_it(fresh_data_dir: Path) -> None:
    settings = EmbeddedSettings(fresh_data_dir)
    async with EmbeddedPostgres(settings):
        pid_file = fresh_data_dir / "postgres" / "server" / "data" / "postmaster.pid"
        left = pid_file.read_text().splitlines()
    sleeper = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        pid_file.write_text("\n".join([str(sleeper.pid), *left[1:]]) + "\n")
        assert running_url(fresh_data_dir) is None
        async with EmbeddedPostgres(settings) as postgres:
            assert await version(postgres.dsn) == "on"
        assert sleeper.returncode is None
    finally:
        sleeper.kill()
        await sleeper.wait()


async def test_ctrl_c_reaches_the_broker_and_not_the_server(fresh_data_dir: Path) -> None:
    process, server = await asyncio.to_thread(spawn, fresh_data_dir)
    assert os.getpgid(server) != os.getpgid(process.pid)
    assert os.getsid(server) != os.getsid(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    await asyncio.to_thread(process.wait, 20)
    assert not alive(server)


async def test_cancelled_while_it_starts_it_leaves_nothing(fresh_data_dir: Path) -> None:
    postgres = EmbeddedPostgres(EmbeddedSettings(fresh_data_dir))
    for delay in (0.05, 0.02):
        task = asyncio.create_task(postgres.__aenter__())
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert running_url(fresh_data_dir) is None
    async with EmbeddedPostgres(EmbeddedSettings(fresh_data_dir)) as again:
        assert await version(again.dsn) == "on"


async def test_a_long_path_has_its_socket_elsewhere(fresh_data_dir: Path) -> None:
    deep = fresh_data_dir / ("d" * 60) / ("e e'" * 10)
    async with EmbeddedPostgres(EmbeddedSettings(deep)) as postgres:
        assert await version(postgres.dsn) == "on"
        (socket_dir,) = parse_qs(urlsplit(postgres.dsn).query)["host"]
        assert await asyncio.to_thread(os.path.exists, socket_dir)
    assert not await asyncio.to_thread(os.path.exists, socket_dir)


@AS_ROOT
async def test_as_root_the_server_is_an_ordinary_user(fresh_data_dir: Path) -> None:
    async with EmbeddedPostgres(EmbeddedSettings(fresh_data_dir)) as postgres:
        assert all(uid != 0 for uid in psutil.Process(postgres.pid).uids())
        assert all(gid != 0 for gid in psutil.Process(postgres.pid).gids())


@AS_ROOT
def test_as_root_a_directory_that_is_closed_to_others_is_refused(
    fresh_data_dir: Path,
) -> None:
    fresh_data_dir.chmod(0o700)
    with pytest.raises(StartupError, match="GATEWAY_BROKER_DATA_DIR"):
        asyncio.run(EmbeddedPostgres(EmbeddedSettings(fresh_data_dir)).__aenter__())
    assert stat.S_IMODE(fresh_data_dir.stat().st_mode) == 0o700


@AS_ROOT
def test_as_root_binaries_that_others_cannot_reach_are_copied(
    fresh_data_dir: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "site-packages"
    closed.mkdir(mode=0o700)
    source = binaries.find_binaries(fresh_data_dir, fresh_data_dir, None).directory.parents[1]
    (closed / source.name).symlink_to(source)
    home = fresh_data_dir / "home"
    home.mkdir(mode=0o755)
    user = pwd.getpwnam("nobody")
    copy = binaries.copy_binaries(source, "pginstall18", home)
    done = subprocess.run(
        [copy / "pginstall18" / "bin" / "initdb", "--version"],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        check=True,
        capture_output=True,
    )
    assert b"PostgreSQL" in done.stdout
    assert not binaries.reachable(closed, user)
    assert binaries.copy_binaries(source, "pginstall18", home) == copy


@AS_ROOT
def test_an_ordinary_user_runs_it_as_himself(fresh_data_dir: Path) -> None:
    """In a child that gives its rights up after its imports, wherever this Python lives."""
    user = pwd.getpwnam("nobody")
    os.chown(fresh_data_dir, user.pw_uid, user.pw_gid)
    code = f"""
import asyncio, os, sys, encodings.idna, concurrent.futures.thread
from pathlib import Path
from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings
os.setgroups([]); os.setgid({user.pw_gid}); os.setuid({user.pw_uid})
async def main():
    async with EmbeddedPostgres(EmbeddedSettings(Path(sys.argv[1]))) as postgres:
        print(os.stat(f"/proc/{{postgres.pid}}").st_uid)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, fresh_data_dir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == str(user.pw_uid), done.stderr
    assert (fresh_data_dir / "postgres").stat().st_mode & 0o077 == 0
