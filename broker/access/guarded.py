"""Files that decide who may come in: read with care, and looked at again and again."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from broker.errors import UnusableFileError

T = TypeVar("T")

LARGEST: Final = 1024 * 1024
"""Bytes of one file; thousands of lines, or of certificates."""


@dataclass(frozen=True, slots=True)
class GuardedFile:
    """A file that only its owner may change.

    Args:
        path: where it is; a symbolic link is followed, as Kubernetes needs it.
        is_secret: whether it must also be kept from being read by everybody.
    """

    path: Path
    is_secret: bool = False

    def read(self) -> bytes:
        """What is in it.

        Raises:
            UnusableFileError: it cannot be read, or others could have changed or read it.
        """
        # Checked is what is read: the open file, not its name. A pipe must not make us wait.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(self.path, flags)
            with os.fdopen(descriptor, "rb") as file:
                self._check(os.fstat(descriptor))
                content = file.read(LARGEST + 1)
            self._check_directories()
        except OSError as error:
            raise UnusableFileError(f"{self.path}: {error.strerror or error}") from None
        if len(content) > LARGEST:
            raise UnusableFileError(f"{self.path}: is larger than {LARGEST} bytes")
        return content

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise UnusableFileError(f"{self.path}: is not a file")
        if found.st_uid not in (0, os.geteuid()):
            raise UnusableFileError(
                f"{self.path}: belongs to user {found.st_uid}, who could change it; it must belong "
                "to root or to the user that reads it"
            )
        if found.st_mode & 0o022:
            raise UnusableFileError(
                f"{self.path}: can be changed by others (mode {found.st_mode & 0o777:03o}); "
                f"`chmod go-w {self.path}`"
            )
        if self.is_secret and found.st_mode & 0o004:
            raise UnusableFileError(
                f"{self.path}: can be read by everybody (mode {found.st_mode & 0o777:03o}); "
                f"`chmod o-rwx {self.path}`"
            )

    def _check_directories(self) -> None:
        """Who may write to its directory may put another file in its place."""
        for directory in {self.path.absolute().parent, self.path.resolve().parent}:
            mode = directory.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise UnusableFileError(
                    f"{self.path}: everybody can write to {directory}, and put another file in "
                    f"its place; `chmod o-w {directory}`"
                )


class Watched(Generic[T]):
    """What some files say, as of the last time that they made sense.

    Args:
        files: read together.
        parse: makes the value of their contents; UnusableFileError if it cannot.

    Attributes:
        value: what they say.
        problem: why what they say now is not in force; empty if it is.

    Raises:
        UnusableFileError: they make no sense now.
    """

    def __init__(self, files: Sequence[GuardedFile], parse: Callable[[list[bytes]], T]) -> None:
        self._files = files
        self._parse = parse
        self._adopted = self._read()
        self._pending = self._adopted
        self.value = parse(self._adopted)
        self.problem = ""

    def look(self) -> bool:
        """Read them again; returns whether the value is another now. Blocks on the disk.

        Contents are compared, not times: those are too coarse to tell two changes apart. What is
        found must be found twice before it counts, since it may be half written, or one file of
        two.
        """
        try:
            found = self._read()
            if found == self._adopted:
                self._pending, self.problem = found, ""
                return False
            if found != self._pending:
                self._pending = found
                return False
            value = self._parse(found)
        except UnusableFileError as error:
            self.problem = str(error)
            return False
        self.value, self._adopted, self.problem = value, found, ""
        return True

    def _read(self) -> list[bytes]:
        return [file.read() for file in self._files]
