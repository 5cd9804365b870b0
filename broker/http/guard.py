"""What every request meets first, and what every answer carries.

On loopback whoever can connect may look, but a browser connects for any page that it shows: a name
that somebody else has pointed to 127.0.0.1 is refused by the Host header, what another site embeds
or fetches by Sec-Fetch-Site. Beyond loopback a token says who looks.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from broker.access.identity import Identity
from broker.errors import BrokerError

logger = logging.getLogger(__name__)

Authenticate = Callable[[str], Identity | None]
"""From a token to whose it is; None if it is nobody's."""

OPEN: Final = "/health/"
"""The paths that need no token: probes have none."""
METRICS: Final = "/metrics"

_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "gateway-broker",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_STATUS: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "SESSION_NOT_FOUND": 404,
    "STORE_UNAVAILABLE": 503,
}
"""The HTTP status of what reading can fail with; everything else is 500."""


def refusal(status: int, reason: str, message: str, **headers: str) -> web.Response:
    """An answer that says why there is none."""
    return web.json_response(
        {"reason": reason, "message": message},
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


async def harden(_: web.Request, response: web.StreamResponse) -> None:
    """Put the headers on an answer, whoever made it."""
    response.headers.update(_HEADERS)


@dataclass(frozen=True, slots=True)
class Guard:
    """Decides who may look.

    Args:
        local: whether only this machine can connect.
        authenticate: knows the tokens, and everybody needs one; None without any.
        insecure: whether everybody may look where there are no tokens, wherever they are.
    """

    local: bool
    authenticate: Authenticate | None = None
    insecure: bool = False

    def obstacle(self, request: web.Request) -> web.Response | None:
        """Why a request is refused; None if it may be answered."""
        if request.method not in ("GET", "HEAD"):
            return refusal(405, "READ_ONLY", "only GET and HEAD are answered", Allow="GET, HEAD")
        if self.local and not _is_local(request.headers.get("Host", "")):
            return refusal(
                403,
                "WRONG_HOST",
                "this listens for its own machine; ask for 127.0.0.1 or localhost, also behind a "
                "proxy or a tunnel",
            )
        if self._may_be_rebound(request):
            return refusal(
                403,
                "WRONG_HOST",
                "without tokens this answers to an address or a name without dots: a page of "
                "another site could have any other name lead here",
            )
        if _is_foreign(request):
            return refusal(403, "WRONG_ORIGIN", "another site's page may not read this")
        if request.path.startswith(OPEN) or self.admits(request):
            return None
        if self.authenticate is None:
            return refusal(
                403,
                "PERMISSION_DENIED",
                "beyond loopback the console needs tokens, and none are configured",
            )
        return refusal(
            401,
            "UNAUTHENTICATED",
            "a token is needed: as Authorization: Bearer, or as the password of Basic",
            WWW_Authenticate='Basic realm="gateway-broker", charset="UTF-8"',
        )

    def admits(self, request: web.Request) -> bool:
        """Whether who asks may look, as of now: a token may have been revoked since."""
        if self.authenticate is None:
            return self.local or self.insecure
        token = _token(request)
        return token is not None and self.authenticate(token) is not None

    def _may_be_rebound(self, request: web.Request) -> bool:
        """Whether a site could have made a browser believe that this is its own server."""
        return (
            self.authenticate is None
            and not self.local
            and not request.path.startswith((OPEN, METRICS))
            and not _is_own(request.headers.get("Host", ""))
        )

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Stand before every handler; what it raises becomes an answer here, and nowhere else."""
        obstacle = self.obstacle(request)
        if obstacle is not None:
            return obstacle
        try:
            return await handler(request)
        except web.HTTPException as error:
            return refusal(error.status, error.reason.upper().replace(" ", "_"), error.reason)
        except BrokerError as error:
            return refusal(_STATUS.get(error.reason, 500), error.reason, error.message)
        except ConnectionError:
            raise
        except Exception as error:
            error_id = str(uuid.uuid4())
            logger.error("request_failed", exc_info=error, extra={"error_id": error_id})
            message = f"the broker erred; its log says more under error_id {error_id}"
            return refusal(500, "INTERNAL", message)


def _name(host: str) -> str:
    """What a Host header names, without the port: that may be a tunnel's."""
    return host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]


def _is_own(host: str) -> bool:
    """Whether a Host header has what no stranger's name server can answer for: an address, or a
    name without dots.
    """
    name = _name(host)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and "." not in name.rstrip(".")
    return True


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine."""
    name = _name(host)
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower().rstrip(".") == "localhost"


def _is_foreign(request: web.Request) -> bool:
    """Whether a page of another site asks; a link there may lead to the page itself."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site in ("same-origin", "none"):
        return False
    return not (request.path == "/" and request.headers.get("Sec-Fetch-Mode") == "navigate")


def _token(request: web.Request) -> str | None:
    """The token that a request carries, by Bearer or as the password of Basic."""
    given = request.headers.getall("Authorization", [])
    if len(given) != 1:
        return None
    scheme, _, value = given[0].partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                return base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return None
    return None
