"""Knows who may come in, as the files say now."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from broker.access import roster, tokens
from broker.access.guarded import GuardedFile, Watched
from broker.access.identity import Identity, Role
from broker.access.roster import Entry, Roster

if TYPE_CHECKING:
    from broker.access.certificates import Material

logger = logging.getLogger(__name__)

LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks at the files. A change counts when it was found twice."""
EXPIRES_SOON: Final = timedelta(days=14)
"""How long before the end of the server's certificate the log begins to say so."""
_REMIND: Final = timedelta(days=1)

Proof: TypeAlias = bytes | tuple[str, ...]
"""What a caller has shown: the SHA-256 of a token, or the names in a certificate of the client CA,
which gRPC has verified."""


class Unknown(enum.StrEnum):
    """Why nobody is known by a proof."""

    NOT_KNOWN = "not_known"
    EXPIRED = "expired"


class Doorkeeper:
    """Says who somebody is by what he shows.

    Args:
        access_file: tokens, and names of certificates; None if there is none.
        tls: certificate, key and, for mTLS, the client CA; empty without TLS.
        client_role: of whom a certificate names, if there is no access file.
        now: the time, in UTC.
        interval: seconds between two looks at the files.

    Attributes:
        is_required: whether callers must say who they are.
        takes_certificates: whether they may do so by a certificate.
        on_change: called when somebody may have lost what he had.

    Raises:
        UnusableFileError: a file is not usable.
    """

    def __init__(
        self,
        *,
        access_file: Path | None = None,
        tls: Sequence[Path] = (),
        client_role: Role = Role.VIEWER,
        now: Callable[[], datetime],
        interval: float = LOOK_INTERVAL,
    ) -> None:
        self.takes_certificates = len(tls) > 2
        self.is_required = access_file is not None or self.takes_certificates
        self.on_change: Callable[[], None] = lambda: None
        self._client_role = client_role
        self._now = now
        self._interval = interval
        self._roster: Watched[Roster] | None = None
        self._tls: Watched[Material] | None = None
        if access_file is not None:
            self._roster = Watched(
                [GuardedFile(access_file, is_secret=True)],
                lambda contents: roster.parse(contents[0], access_file),
            )
        if tls:
            # Who serves no TLS need not have cryptography in memory.
            from broker.access.certificates import material  # noqa: PLC0415

            self._tls = Watched(
                [GuardedFile(path, is_secret=index == 1) for index, path in enumerate(tls)],
                lambda contents: material(contents, tls, now()),
            )
        self._looked_at = now()
        self._reminded_at = self._looked_at - _REMIND
        self._told = ""

    @property
    def tls(self) -> Material | None:
        """What the server shows, and whom it trusts; None without TLS."""
        return None if self._tls is None else self._tls.value

    @property
    def problem(self) -> str:
        """Why a change of a file is not in force; empty if all are."""
        found = [watched.problem for watched in (self._roster, self._tls) if watched is not None]
        return "; ".join(filter(None, found))

    def identify(self, proof: Proof) -> Identity | Unknown:
        """Who shows this."""
        entry: Entry | None = None
        if self._roster is None:
            # Whom the client CA has certified is known; the first name is the one that counts.
            if isinstance(proof, tuple) and proof and roster.is_name(proof[0]):
                return Identity(proof[0], self._client_role)
        elif isinstance(proof, bytes):
            # The lookup compares hashes of digests, keyed anew in each process: how long it takes
            # says nothing that a caller could steer towards a token.
            entry = self._roster.value.tokens.get(proof)
        else:
            known = self._roster.value.certificates
            entry = next((known[name] for name in proof if name in known), None)
        if entry is None:
            return Unknown.NOT_KNOWN
        if entry.until is None or entry.is_valid(self._now()):
            return entry.identity
        return Unknown.EXPIRED

    def authenticate(self, token: str) -> Identity | None:
        """Who has this token; None if nobody, or not any more."""
        digest = tokens.digest(token)
        found = Unknown.NOT_KNOWN if digest is None else self.identify(digest)
        return found if isinstance(found, Identity) else None

    async def run(self) -> None:
        """Look at the files until cancelled."""
        while self._roster is not None or self._tls is not None:
            await asyncio.sleep(self._interval)
            changed = await asyncio.to_thread(self._look)
            self._tell()
            if changed or self._has_expired():
                self.on_change()

    def _look(self) -> bool:
        changed = self._roster is not None and self._roster.look()
        if changed:
            logger.info("access_file_changed")
        if self._tls is not None and self._tls.look():
            logger.info(
                "certificate_changed",
                extra={"not_after": self._tls.value.not_after.isoformat()},
            )
        return changed

    def _tell(self) -> None:
        problem = self.problem
        if problem != self._told:
            self._told = problem
            if problem:
                logger.error("access_unusable", extra={"error": problem})
            else:
                logger.info("access_usable")
        if self._tls is None:
            return
        now, not_after = self._now(), self._tls.value.not_after
        if not_after - now < EXPIRES_SOON and now - self._reminded_at >= _REMIND:
            self._reminded_at = now
            logger.warning(
                "certificate_expires_soon",
                extra={"not_after": not_after.isoformat()},
            )

    def _has_expired(self) -> bool:
        """Whether a line has expired since the last look."""
        before, self._looked_at = self._looked_at, self._now()
        return self._roster is not None and any(
            entry.is_valid(before) and not entry.is_valid(self._looked_at)
            for entry in self._roster.value.entries
        )
