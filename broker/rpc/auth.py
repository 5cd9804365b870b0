"""Who may call what: identities from what callers show, rights from the table, and streams whose
callers have lost theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from broker.access import tokens
from broker.access.doorkeeper import Doorkeeper, Proof, Unknown
from broker.access.identity import Identity, Role
from broker.access.rights import RIGHTS, Right
from broker.errors import PermissionDeniedError, UnauthenticatedError
from broker.rpc.audit import STRANGERS, Audit
from broker.rpc.caller import OWNER_KEY, Context, Metadata, proven
from broker.rpc.requests import LONGEST_NAME
from broker.runtime.trace import correlation_id

TOKEN_KEY: Final = "authorization"  # noqa: S105  # a name, not a token
LONGEST_HEADER: Final = 128
"""Characters; one with a token of ours has 54."""
_SCHEME: Final = "bearer "
_NAMES: Final = ("x509_subject_alternative_name", "x509_common_name")
_CAUSES: Final = {Unknown.NOT_KNOWN: "is not known here", Unknown.EXPIRED: "has expired"}


@dataclass(frozen=True, slots=True)
class Admitted:
    """A caller that was let in.

    Args:
        proof: what it has shown.
        identity: who it is.
    """

    proof: Proof
    identity: Identity


class Leash:
    """By what a stream can be ended from outside, wherever it waits for its next message.

    While it sends one it is let be, and ends after that: gRPC answers nothing for a handler that is
    cancelled while it sends.

    Args:
        admitted: whose stream it is; None is on no leash.
    """

    __slots__ = ("_task", "admitted", "is_cut", "is_waiting")

    def __init__(self, admitted: Admitted | None) -> None:
        self.admitted = admitted
        self.is_waiting = False
        self.is_cut = False
        self._task = asyncio.current_task()

    def cut(self) -> None:
        """End the stream."""
        self.is_cut = True
        if self.is_waiting and self._task is not None:
            self._task.cancel()

    def has_cancelled(self) -> bool:
        """Whether a cancellation that has just arrived is this leash's, and nobody else's."""
        return self.is_cut and self._task is not None and self._task.uncancel() == 0


class Gate:
    """Lets callers in, or refuses them.

    Args:
        doorkeeper: says who they are.
        owner_of: the owner of a session; BrokerError if that cannot be said.
        audit: is told of refusals, and of what operators do.
    """

    def __init__(
        self, doorkeeper: Doorkeeper, owner_of: Callable[[UUID], Awaitable[str]], audit: Audit
    ) -> None:
        self._doorkeeper = doorkeeper
        self._owner_of = owner_of
        self._audit = audit
        self._leashes: set[Leash] = set()
        doorkeeper.on_change = self._cut_loose

    async def admit(
        self, method: str, request: Any, metadata: Metadata, context: Context
    ) -> Admitted | None:
        """Let a caller in; `proven` says from then on who it is.

        Args:
            method: the path of the rpc.
            request: what it asks.
            metadata: what came with it.
            context: of the rpc.

        Returns:
            None if callers need not say who they are.

        Raises:
            UnauthenticatedError: it is not known who calls.
            PermissionDeniedError: it may not do this.
            BrokerError: whose the session is cannot be said.
        """
        right = RIGHTS[method]
        if not self._doorkeeper.is_required:
            return None
        proof, claims = self._shown(method, metadata, context)
        identity = self._doorkeeper.identify(proof)
        if isinstance(identity, Unknown):
            what = "token" if isinstance(proof, bytes) else "certificate"
            raise self._stranger(f"the {what} {_CAUSES[identity]}", method, context)
        if identity.role < right.role:
            raise self._denied(
                identity, "may not do this", needed=right.role, method=method, context=context
            )
        for name in claims:
            # To open its sessions under another name than it believes would be worse.
            if name != identity.name:
                raise self._denied(
                    identity,
                    f"may not call itself {name!r}; leave {OWNER_KEY} out",
                    needed=right.role,
                    method=method,
                    context=context,
                )
        if right is Right.OWN:
            await self._require_owner(identity, method, request, context)
        elif right is Right.OPERATE:
            self._operated(
                identity, method, context, {"gateway_id": request.gateway_id[:LONGEST_NAME]}
            )
        proven.set(identity)
        return Admitted(proof, identity)

    @contextmanager
    def holding(self, admitted: Admitted | None) -> Iterator[Leash]:
        """Meanwhile a stream ends when its caller is not, any more, who it was."""
        leash = Leash(admitted)
        if admitted is not None:
            self._leashes.add(leash)
        try:
            yield leash
        finally:
            self._leashes.discard(leash)

    def revoked(self, leash: Leash, method: str, context: Context) -> UnauthenticatedError:
        """What a stream ends with whose leash was cut."""
        assert leash.admitted is not None
        caller = leash.admitted.identity.name
        cause = f"what {caller!r} has shown was changed or revoked, or has expired"
        return self._unauthenticated(caller, cause, method, context)

    def _cut_loose(self) -> None:
        for leash in list(self._leashes):
            admitted = leash.admitted
            assert admitted is not None
            if self._doorkeeper.identify(admitted.proof) != admitted.identity:
                leash.cut()

    def _shown(
        self, method: str, metadata: Metadata, context: Context
    ) -> tuple[Proof, list[str | bytes]]:
        """What the caller shows: its token or, without one, its certificate; and under which names
        it wants to be the owner.
        """
        header: str | bytes | None = None
        claims: list[str | bytes] = []
        for key, value in metadata:
            if key == TOKEN_KEY:
                if header is not None:
                    raise self._stranger(f"metadata {TOKEN_KEY} was sent twice", method, context)
                header = value
            elif key == OWNER_KEY:
                claims.append(value)
        if header is not None:
            return self._token(header, method, context), claims
        if self._doorkeeper.takes_certificates:
            shown = context.auth_context()
            # Authorities that verify alternative names may leave the common name to the applicant.
            names = next((shown[key] for key in _NAMES if shown.get(key)), ())
            if names:
                return tuple(name.decode(errors="replace") for name in names), claims
        raise self._stranger("no token was sent", method, context)

    def _token(self, header: str | bytes, method: str, context: Context) -> bytes:
        if (
            not isinstance(header, str)
            or len(header) > LONGEST_HEADER
            or header[: len(_SCHEME)].lower() != _SCHEME
        ):
            raise self._stranger(f"metadata {TOKEN_KEY} is not `Bearer TOKEN`", method, context)
        digest = tokens.digest(header[len(_SCHEME) :])
        if digest is None:
            raise self._stranger("the token is not known here", method, context)
        return digest

    async def _require_owner(
        self, identity: Identity, method: str, request: Any, context: Context
    ) -> None:
        try:
            session_id = UUID(request.session_id[:64])
        except ValueError:
            return  # The handler refuses it, by the name of the field.
        owner = await self._owner_of(session_id)
        if owner == identity.name:
            return
        whose = {"session_id": str(session_id), "owner": owner}
        if identity.role < Role.OPERATOR:
            raise self._denied(
                identity,
                f"may not do this with session {session_id}, which is {owner!r}'s",
                needed=Role.OPERATOR,
                method=method,
                context=context,
                more=whose,
            )
        self._operated(identity, method, context, whose)

    def _operated(
        self, identity: Identity, method: str, context: Context, what: dict[str, str]
    ) -> None:
        fields = {"method": method, "caller": identity.name, **_call(context), **what}
        self._audit.operated(fields)

    def _stranger(self, cause: str, method: str, context: Context) -> UnauthenticatedError:
        return self._unauthenticated(STRANGERS, cause, method, context)

    def _unauthenticated(
        self, caller: str, cause: str, method: str, context: Context
    ) -> UnauthenticatedError:
        error = UnauthenticatedError(cause, method, RIGHTS[method].role.name.lower())
        self._audit.refused(caller, {**error.metadata, "caller": caller, **_call(context)})
        return error

    def _denied(
        self,
        identity: Identity,
        what: str,
        *,
        needed: Role,
        method: str,
        context: Context,
        more: dict[str, str] | None = None,
    ) -> PermissionDeniedError:
        role, needed_role = identity.role.name.lower(), needed.name.lower()
        error = PermissionDeniedError(
            f"{identity.name!r}, a {role}, {what}; {method} takes a role of {needed_role}",
            {
                "caller": identity.name,
                "role": role,
                "needed_role": needed_role,
                "method": method,
                **(more or {}),
            },
        )
        self._audit.refused(identity.name, {**error.metadata, **_call(context)})
        return error


def _call(context: Context) -> dict[str, str]:
    """Which call a line is about."""
    return {"peer": context.peer(), "correlation_id": correlation_id.get("")}
