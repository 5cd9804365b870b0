"""A real PostgreSQL in the data directory, from the binaries of a wheel.

We run the wheel's ``initdb``, ``pg_ctl`` and ``postgres`` ourselves and never import it:
its own helper opens every parent directory to everybody when it runs as root, and trusts
every connection. ``docs/decisions/0003-embedded-postgresql.md`` has the whole story.

    DATA_DIR/postgres/           ours; nobody else may write here
        lock                     held while a broker lives; contains its pid
        password                 0600
        binaries-VERSION/        root only: a copy that the server's user can reach
        server/                  0700, of the server's user
            data/  log  run/     the cluster, its log, its socket
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import pwd
import secrets
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote, urlencode

from broker.errors import StartupError
from broker.store.binaries import Binaries, find_binaries, reachable

logger = logging.getLogger(__name__)

T = TypeVar("T")

USER: Final = "broker"
DATABASE: Final = "gateway_broker"

_START_TIMEOUT: Final = 60
"""Seconds: after a crash PostgreSQL first replays its log."""
_STOP_TIMEOUT: Final = 20
_INIT_TIMEOUT: Final = 120
_PORT_TRIES: Final = 3
_SOCKET_PATH_LIMIT: Final = 107 - len("/.s.PGSQL.65535.lock")
"""The bytes that the kernel leaves for the directory of a socket."""
_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """Where the embedded PostgreSQL lives."""

    data_dir: Path
    """The broker's data directory; ``postgres`` below it is made here. As root it must be
    one that an ordinary user can pass through, such as /var/lib/gateway-broker."""


@dataclass(frozen=True, slots=True)
class Running:
    """What a server says of itself in ``postmaster.pid``."""

    pid: int
    port: int
    socket_dir: str


class EmbeddedPostgres:
    """One cluster and its server, started on enter and stopped on exit.

    Raises on enter:
        StartupError: another broker runs it, the directory cannot be used, or the server
            does not start; the message says what to do.

    Cancelled while it starts, it stops what it has started.
    """

    def __init__(self, settings: EmbeddedSettings) -> None:
        self._cluster = _Cluster(settings.data_dir)

    @property
    def dsn(self) -> str:
        """How the broker connects: over the socket."""
        return self._cluster.dsn

    @property
    def url(self) -> str:
        """How anybody on this machine who may read the password connects: 127.0.0.1."""
        return self._cluster.url

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._cluster.running.pid

    async def __aenter__(self) -> Self:
        try:
            await _in_thread(self._cluster.start)
        except BaseException:  # a cancellation, too, must not leave a server without an owner
            await _in_thread(self._cluster.stop)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await _in_thread(self._cluster.stop)


def running_url(data_dir: Path) -> str | None:
    """The psql URL of the cluster that runs in a data directory; None if none runs there.

    Raises:
        PermissionError: it belongs to another user.
    """
    cluster = _Cluster(data_dir)
    running = cluster.read_running()
    if running is None or not cluster.is_our_server(running.pid):
        return None
    cluster.running = running
    cluster.password = cluster.password_file.read_text(encoding="utf-8")
    return cluster.url


def has_cluster(data_dir: Path) -> bool:
    """Whether a cluster was ever made in a data directory.

    Raises:
        PermissionError: it belongs to another user.
    """
    return (_Cluster(data_dir).data / "PG_VERSION").exists()


async def _in_thread(work: Callable[[], T]) -> T:
    """Run blocking work to its end, also when cancelled: a half-started server has no owner."""
    done = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait((done,))
        raise


class _Cluster:
    """The blocking half: files and processes."""

    running: Running
    password: str

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.home = self.data_dir / "postgres"
        self.server = self.home / "server"
        self.data = self.server / "data"
        self.log = self.server / "log"
        self.password_file = self.home / "password"
        self._lock: int | None = None
        self._user: pwd.struct_passwd | None = None
        self._binaries: Binaries | None = None
        self._socket_dir: Path | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.running.port}/{DATABASE}"

    @property
    def dsn(self) -> str:
        query = urlencode(
            {"host": self.running.socket_dir, "port": self.running.port}, quote_via=quote
        )
        return f"postgresql://{USER}:{self.password}@/{DATABASE}?{query}"

    def start(self) -> None:
        try:
            self._make_home()
            self._take_lock()
            self._user = self._server_user()
            self._binaries = find_binaries(self.home, self.data, self._user)
            self._stop_orphan()
            if not self.data.exists():
                self._initialise()
            self.password = self.password_file.read_text(encoding="utf-8")
            self._start_server()
        except OSError as error:
            raise StartupError(f"the embedded PostgreSQL cannot be started: {error}") from error

    def stop(self) -> None:
        if self._lock is None:
            return
        if self._binaries is not None and (self.data / "postmaster.pid").exists():
            self._stop_server()
        if self._socket_dir is not None and self._socket_dir.parent != self.server:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def read_running(self) -> Running | None:
        try:
            lines = _read(self.data / "postmaster.pid").splitlines()
        except FileNotFoundError:
            return None
        if len(lines) < 8 or lines[7].strip() != "ready":
            return None
        return Running(pid=int(lines[0]), port=int(lines[3]), socket_dir=lines[4])

    def is_our_server(self, pid: int) -> bool:
        """Whether a process is a PostgreSQL on this directory: pids are used again."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cwd").readlink() == self.data.resolve()
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            ps = ["ps", "-o", "command=", "-p", str(pid)]
            done = subprocess.run(  # noqa: S603 # nosec B603 # a fixed command and a number
                ps, capture_output=True, text=True, timeout=5, check=False, env=_ENVIRONMENT
            )
            return str(self.data) in done.stdout
        return False

    def _make_home(self) -> None:
        missing = [path for path in (self.home, *self.home.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            if os.geteuid() == 0:
                # Ours and new, so nobody's permission is loosened; the server's user must
                # pass through, whatever root's umask.
                path.chmod(0o711)
            else:
                path.chmod(0o700)

    def _take_lock(self) -> None:
        descriptor = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StartupError(
                f"the data directory {self.data_dir} is used by another broker, process "
                f"{holder or 'unknown'}; stop that one, or set GATEWAY_BROKER_DATA_DIR to "
                "another directory"
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        self._lock = descriptor

    def _server_user(self) -> pwd.struct_passwd | None:
        """As root, whom the server runs as, since PostgreSQL refuses root; else None."""
        if os.geteuid() != 0:
            return None
        if self.server.exists():
            # A user "postgres" that was added later must not make a cluster unusable.
            user = pwd.getpwuid(self.server.stat().st_uid)
        else:
            user = unprivileged_user()
        if not reachable(self.home, user):
            raise StartupError(
                f"PostgreSQL does not run as root, and user {user.pw_name!r} cannot pass through "
                f"{self.home}; set GATEWAY_BROKER_DATA_DIR to a directory that others can pass "
                "through, such as /var/lib/gateway-broker, or run the broker as an ordinary user"
            )
        return user

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there when it is whole."""
        if self.server.exists():
            raise StartupError(
                f"{self.server} has no cluster in it; move it away, and a new one is made"
            )
        draft = self.home / "server.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        # Both files are written before the directory is the server user's, so that no
        # process of that user can put a link in their place.
        _write_private(draft / "password", password, self._user)
        if self._user is not None:
            os.chown(draft, self._user.pw_uid, self._user.pw_gid)
        data = draft / "data"
        self._command(
            "initdb",
            *("-D", str(data), "-U", USER, "--auth=scram-sha-256", "--encoding=UTF8"),
            *("--locale=C", "--no-instructions", f"--pwfile={draft / 'password'}"),
            timeout=_INIT_TIMEOUT,
        )
        self._command(
            *("postgres", "--single", "-D", str(data), "postgres"),
            stdin=f"CREATE DATABASE {DATABASE}\n",
            timeout=_INIT_TIMEOUT,
        )
        (draft / "password").unlink()
        (draft / "run").mkdir(mode=0o700)
        if self._user is not None:
            os.chown(draft / "run", self._user.pw_uid, self._user.pw_gid, follow_symlinks=False)
        self.password_file.unlink(missing_ok=True)
        _write_private(self.password_file, password, None)
        draft.rename(self.server)

    def _start_server(self) -> None:
        directory = self._runtime_dir()
        for attempt in range(_PORT_TRIES):
            port = _free_port()
            quoted = str(directory).replace('"', '""')
            options = (
                *("-c", "listen_addresses=127.0.0.1", "-c", f"port={port}"),
                *("-c", f'unix_socket_directories="{quoted}"'),
                *("-c", "unix_socket_permissions=0700"),
            )
            try:
                self._command(
                    *("pg_ctl", "start", "-D", str(self.data), "-l", str(self.log), "-w"),
                    *("-t", str(_START_TIMEOUT), "-o", shlex.join(options)),
                    timeout=_START_TIMEOUT + 10,
                )
            except StartupError:
                taken = "could not bind" in self._log_tail()
                if taken and attempt + 1 < _PORT_TRIES:
                    continue
                raise StartupError(
                    f"the embedded PostgreSQL does not start; its log, {self.log}, ends with:\n"
                    f"{self._log_tail()}"
                ) from None
            break
        running = self.read_running()
        if running is None:
            raise StartupError(f"the embedded PostgreSQL stopped at once; see {self.log}")
        self.running = running

    def _runtime_dir(self) -> Path:
        """Where the socket is. In the data directory if its path is short enough: what
        cleans /tmp by age would remove it under a broker that runs for weeks.
        """
        directory = self.server / "run"
        if len(os.fsencode(directory)) > _SOCKET_PATH_LIMIT:
            directory = Path(tempfile.mkdtemp(prefix="gateway-broker-"))
            if self._user is not None:
                os.chown(directory, self._user.pw_uid, self._user.pw_gid)
        self._socket_dir = directory
        return directory

    def _stop_orphan(self) -> None:
        """Stop the server of a broker that was killed; we hold the lock, so it has no owner."""
        pid_file = self.data / "postmaster.pid"
        try:
            first, *_ = _read(pid_file).split() or ["0"]
        except FileNotFoundError:
            return
        pid = int(first)
        if self.is_our_server(pid):
            orphan = self.read_running()
            self._stop_server()
            if orphan is not None and Path(orphan.socket_dir) != self.server / "run":
                shutil.rmtree(orphan.socket_dir, ignore_errors=True)
        elif _exists(pid):
            # After a restart of the machine the pid may be another's, and PostgreSQL would
            # refuse to start for its sake. Where no process has it, PostgreSQL itself
            # judges, which also looks for orphaned children.
            pid_file.unlink()

    def _stop_server(self) -> None:
        for mode in ("fast", "immediate"):
            try:
                self._command(
                    *("pg_ctl", "stop", "-D", str(self.data), "-m", mode, "-w"),
                    *("-t", str(_STOP_TIMEOUT)),
                    timeout=_STOP_TIMEOUT + 5,
                )
            except StartupError as error:
                failure = error
            else:
                return
        # It has no owner now. Who starts next on this directory stops it.
        logger.error(
            "database_not_stopped",
            extra={"error": str(failure), "data_directory": str(self.data)},
        )

    def _command(self, name: str, *arguments: str, timeout: float, stdin: str = "") -> None:
        """Run one of the binaries as the server's user, away from our terminal's Ctrl-C."""
        assert self._binaries is not None
        command: Sequence[str] = (str(self._binaries.directory / name), *arguments)
        user = self._user
        try:
            done = subprocess.run(  # noqa: S603 # nosec B603 # the wheel's own binaries, no shell
                command,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                cwd="/",
                env=_ENVIRONMENT,
                umask=0o077,
                start_new_session=True,
                user=None if user is None else user.pw_uid,
                group=None if user is None else user.pw_gid,
                extra_groups=None if user is None else [],
            )
        except subprocess.TimeoutExpired as error:
            raise StartupError(f"{name} did not end within {timeout:g} s") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-1000:]
            raise StartupError(f"{name} failed ({done.returncode}): {said}")

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(_read(self.log).splitlines()[-8:])
        return ""


def unprivileged_user() -> pwd.struct_passwd:
    """Whom the server runs as where the broker is root.

    Raises:
        StartupError: there is no such user.
    """
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            if user.pw_uid != 0:
                return user
    raise StartupError(
        "PostgreSQL does not run as root, and there is neither a user 'postgres' nor 'nobody'; "
        "run the broker as an ordinary user, or set DATABASE_URL"
    )


def _write_private(path: Path, text: str, user: pwd.struct_passwd | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if user is not None:
            os.fchown(descriptor, user.pw_uid, user.pw_gid)
        file.write(text)


def _read(path: Path) -> str:
    # No link: root reads files here that another user may have put there.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StartupError(f"{path} is not a file")
        return file.read()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
