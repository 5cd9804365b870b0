"""The access file: who may come in, a line each.

    # name     role      until                 key
    momentum   trader    never                 sha256:5f70bf18a086007016e948b04aed3b82…
    risk       viewer    2027-01-31T00:00:00Z  sha256:b94d27b9934d3e08a52e52d7da7dabfa…
    ops        operator  never                 certificate

A key is the SHA-256 of a token, or ``certificate``: whoever shows a certificate of the client CA
with this name in it. One name may have several lines, such as the old token and the new one.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from broker.access.guarded import GuardedFile
from broker.access.identity import Identity, Role
from broker.errors import UnusableFileError

HEADER: Final = "# name  role  until  key\n"
LONGEST_NAME: Final = 128
MOST_PROBLEMS: Final = 10
_NAME: Final = re.compile(rf"(?!#)[!-~]{{1,{LONGEST_NAME}}}")
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_CERTIFICATE: Final = "certificate"
_NEVER: Final = "never"


def is_name(text: str) -> bool:
    """Whether it can be the name of a caller: printable ASCII without blanks."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """A line: who it is that shows a certain key.

    Args:
        identity: who.
        until: when it expires, in UTC; None never.
        digest: the SHA-256 of the token; None is a certificate with the identity's name.
    """

    identity: Identity
    until: datetime | None
    digest: bytes | None

    @property
    def key_id(self) -> str:
        """What names this key beside its owner's name."""
        return _CERTIFICATE if self.digest is None else self.digest.hex()[:12]

    @property
    def until_text(self) -> str:
        """When it expires, as the file has it."""
        if self.until is None:
            return _NEVER
        return f"{self.until.replace(tzinfo=None).isoformat(timespec='seconds')}Z"

    def is_valid(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.until is None or now < self.until

    def line(self) -> str:
        """As the file has it."""
        key = _CERTIFICATE if self.digest is None else f"sha256:{self.digest.hex()}"
        role = self.identity.role.name.lower()
        return f"{self.identity.name}  {role}  {self.until_text}  {key}\n"


@dataclass(frozen=True, slots=True)
class Roster:
    """All who may come in.

    Args:
        entries: in the order of the file.
        tokens: those with a token, by its SHA-256.
        certificates: those with a certificate, by name.
    """

    entries: Sequence[Entry]
    tokens: Mapping[bytes, Entry]
    certificates: Mapping[str, Entry]


def parse(content: bytes, path: Path) -> Roster:
    """Read an access file.

    Args:
        content: of the file.
        path: where it is, for messages.

    Raises:
        UnusableFileError: names each line that is wrong, 10 at most.
    """
    if not content:
        # Nobody may come in is said by a comment alone; nothing at all is a write that failed.
        raise UnusableFileError(f"{path}: is empty")
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise UnusableFileError(f"{path}: is not ASCII text") from None
    entries: list[Entry] = []
    tokens: dict[bytes, Entry] = {}
    certificates: dict[str, Entry] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            entry = _entry(line)
            if (
                entry.digest is None
                and certificates.setdefault(entry.identity.name, entry) != entry
            ):
                raise ValueError(f"certificate {entry.identity.name!r} stands in another line, too")
            if entry.digest is not None and tokens.setdefault(entry.digest, entry) != entry:
                raise ValueError("this token stands in another line, too")
            entries.append(entry)
        except ValueError as error:
            problems.append(f"  line {number}: {error}")
    if problems:
        raise UnusableFileError("\n".join([f"{path} is refused:", *problems[:MOST_PROBLEMS]]))
    return Roster(entries, tokens, certificates)


def _entry(line: str) -> Entry:
    parts = line.split()
    if len(parts) != 4:
        raise ValueError(f"must be NAME ROLE UNTIL KEY, these are {len(parts)} words")
    name, role, until, key = parts
    if not is_name(name):
        raise ValueError(f"a name is at most {LONGEST_NAME} printable characters")
    if role.upper() not in Role.__members__:
        raise ValueError(f"a role is viewer, trader or operator, not {role!r}")
    found = _DIGEST.fullmatch(key)
    if found is None and key != _CERTIFICATE:
        raise ValueError(
            "a key is sha256: and 64 hexadecimal digits, or the word certificate; "
            "`gateway-broker access token add` makes one"
        )
    return Entry(
        Identity(name, Role[role.upper()]),
        None if until == _NEVER else time(until),
        None if found is None else bytes.fromhex(found[1]),
    )


def time(text: str) -> datetime:
    """When something expires, as the file has it; ValueError if it does not say so."""
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"until is never, or a time with its zone such as 2027-01-31T00:00:00Z, not {text!r}"
    )


def read(path: Path) -> Roster:
    """What an access file says now.

    Raises:
        UnusableFileError: it is not usable.
    """
    return parse(GuardedFile(path, is_secret=True).read(), path)


def add(path: Path, entry: Entry) -> None:
    """Append a line; a file that is not there is made.

    Raises:
        UnusableFileError: the file is not usable, or would not be afterwards.
    """
    _make(path)
    with _editing(path) as lines:
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines.append(entry.line())


def revoke(path: Path, name: str, key_id: str | None) -> Sequence[Entry]:
    """Take the lines of a name out; comments and all other lines stay as they are.

    Args:
        path: of the file.
        name: whose.
        key_id: only the line with this key; None is all of them.

    Returns:
        What is out now; empty if nothing matched.

    Raises:
        UnusableFileError: the file is not usable.
    """
    out: list[Entry] = []
    with _editing(path) as lines:
        for line in lines[:]:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            entry = _entry(line)
            if entry.identity.name == name and key_id in (None, entry.key_id):
                lines.remove(line)
                out.append(entry)
        if not lines:
            lines.append(HEADER)
    return out


def _make(path: Path) -> None:
    """A file without a line, unless there is one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, 0o600), "w") as file:
            file.write(HEADER)
    except FileExistsError:
        return
    except OSError as error:
        raise UnusableFileError(f"{path}: {error.strerror}") from None


@contextmanager
def _editing(path: Path) -> Iterator[list[str]]:
    """The lines of a file, to be changed; one writer at a time, and readers see all or nothing."""
    real = path.resolve()
    directory = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Else a line that one writer has taken out could come back by the hand of another.
        fcntl.flock(directory, fcntl.LOCK_EX)
        content = GuardedFile(real, is_secret=True).read()
        parse(content, path)
        lines = content.decode("ascii").splitlines(keepends=True)
        yield lines
        changed = "".join(lines).encode("ascii")
        parse(changed, path)
        _replace(real, changed)
    except OSError as error:
        raise UnusableFileError(f"{path}: {error.strerror or error}") from None
    finally:
        os.close(directory)


def _replace(path: Path, content: bytes) -> None:
    before = path.stat()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, before.st_mode & 0o777)
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, before.st_uid, before.st_gid)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:  # whatever it was, no half of a roster stays beside it
        Path(name).unlink(missing_ok=True)
        raise
