"""Everything that a broker beyond loopback needs, made on the spot for a trial."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from broker.access import certificates, roster, tokens
from broker.access.certificates import Issued
from broker.access.identity import Identity, Role
from broker.access.roster import Entry
from broker.errors import UnusableFileError

_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_RESERVED: Final = frozenset({"ca", "server"})


@dataclass(frozen=True, slots=True)
class Trial:
    """Where the files are.

    Args:
        directory: of all of them.
    """

    directory: Path

    @property
    def ca(self) -> Path:
        """The certificate of the authority, which clients are to trust, and the broker, too."""
        return self.directory / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The server's."""
        return self.directory / "server.pem"

    @property
    def key(self) -> Path:
        """The server's."""
        return self.directory / "server-key.pem"

    @property
    def access_file(self) -> Path:
        """Who may come in."""
        return self.directory / "access"

    def token(self, role: Role) -> Path:
        """The file with the token of a role."""
        return self.directory / f"{role.name.lower()}.token"

    def client(self, name: str) -> tuple[Path, Path]:
        """The certificate of a caller, and its key."""
        return self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"

    def make(
        self, hosts: Sequence[str], clients: Mapping[str, Role], *, now: datetime, days: int
    ) -> None:
        """Make an authority, the server's certificate, a token of each role, and certificates.

        Args:
            hosts: names and addresses under which the broker is reached.
            clients: callers that get a certificate.
            now: the time.
            days: for which the certificates are good.

        Raises:
            UnusableFileError: a file is there already, or cannot be written; nothing of what was
                there is overwritten.
        """
        for name in clients:
            self._check_name(name)
        authority = certificates.new_authority("gateway-broker trial CA", now=now, days=days)
        server = certificates.new_server(authority, hosts, now=now, days=days)
        files = {
            self.ca: authority.certificate,
            self.directory / "ca-key.pem": authority.key,
            self.certificate: server.certificate,
            self.key: server.key,
        }
        lines = [roster.HEADER]
        for role in Role:
            token = tokens.new_token()
            files[self.token(role)] = f"{token}\n".encode()
            lines.append(_entry(role.name.lower(), role, token).line())
        for name, role in clients.items():
            files |= self._client_files(authority, name, now, days)
            lines.append(_entry(name, role, None).line())
        files[self.access_file] = "".join(lines).encode()
        self._write(files)

    def add_client(self, name: str, role: Role, *, now: datetime, days: int) -> None:
        """Make a certificate for another caller, and let it in.

        Raises:
            UnusableFileError: there is no authority here, or a file is there already.
        """
        self._check_name(name)
        try:
            authority = Issued(self.ca.read_bytes(), (self.directory / "ca-key.pem").read_bytes())
        except OSError as error:
            raise UnusableFileError(
                f"{self.directory}: has no authority of `access init`: {error.strerror}"
            ) from None
        self._write(self._client_files(authority, name, now, days))
        roster.add(self.access_file, _entry(name, role, None))

    def _client_files(
        self, authority: Issued, name: str, now: datetime, days: int
    ) -> Mapping[Path, bytes]:
        issued = certificates.new_client(authority, name, now=now, days=days)
        certificate, key = self.client(name)
        return {certificate: issued.certificate, key: issued.key}

    def _check_name(self, name: str) -> None:
        if not _FILE_NAME.fullmatch(name) or name in _RESERVED:
            raise UnusableFileError(
                f"{name!r} cannot be the name of a certificate here: letters, digits, dot, dash "
                "and underscore, 63 at most, neither ca nor server"
            )

    def _write(self, files: Mapping[Path, bytes]) -> None:
        there = [str(path) for path in files if os.path.lexists(path)]
        if there:
            raise UnusableFileError(f"nothing is overwritten, and there is: {', '.join(there)}")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path, content in files.items():
                is_public = content.startswith(b"-----BEGIN CERTIFICATE")
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                descriptor = os.open(path, flags, 0o644 if is_public else 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
        except OSError as error:
            raise UnusableFileError(f"{error.filename}: {error.strerror}") from None


def _entry(name: str, role: Role, token: str | None) -> Entry:
    return Entry(Identity(name, role), None, None if token is None else tokens.digest(token))
