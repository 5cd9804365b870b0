"""The Gateway's side of the TWS wire protocol, without I/O: frames, the hello, and messages by
server version.

Text regime only, server versions 157 to 200: a frame is a 4-byte big-endian length and a payload of
NUL-terminated fields. Layouts were read from the decoders of the official client (ibapi 10.46) and
of ib_async 2.1.
"""

import re
import struct
from dataclasses import dataclass
from typing import Final

PREFIX: Final = b"API\0"
MIN_SERVER_VERSION: Final = 157
MAX_SERVER_VERSION: Final = 200
MAX_FRAME: Final = 0xFFFFFF
"""The largest payload in bytes that the official client accepts: 16 MiB - 1."""
MAX_HANDSHAKE_FRAME: Final = 4096
"""Bytes. Version string and startApi are tiny; a stranger must not make us buffer 16 MiB."""
MAX_CLIENT_ID: Final = 2**31 - 1
NO_ID: Final = -1
"""The request id of messages about the connection itself."""

_ADVANCED_REJECT: Final = 166
_ERROR_TIME: Final = 194
_LENGTH: Final = struct.Struct(">I")
_VERSION_RANGE: Final = re.compile(rb"v(\d{1,9})(?:\.\.(\d{1,9}))?(?: (.*))?", re.DOTALL)


class ProtocolError(Exception):
    """The peer broke the protocol; the message says how. The connection cannot continue."""


class FrameBuffer:
    """Turns a stream of bytes into frames.

    `limit` is the largest payload in bytes; a larger one raises ProtocolError as soon as its length
    is known, before anything of it is buffered on its account.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._data = bytearray()

    def __len__(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._data)

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._data += data

    def take_prefix(self) -> bool:
        """Consume the prefix that precedes the first frame; False while it is incomplete.

        Raises ProtocolError on the first byte that differs, so that an HTTP client is not left
        waiting.
        """
        if not PREFIX.startswith(bytes(self._data[: len(PREFIX)])):
            raise ProtocolError("the connection did not begin with API\\0")
        if len(self._data) < len(PREFIX):
            return False
        del self._data[: len(PREFIX)]
        return True

    def next_frame(self) -> bytes | None:
        """Return the next complete payload, or None. Raises ProtocolError beyond the limit."""
        if len(self._data) < _LENGTH.size:
            return None
        length: int = _LENGTH.unpack_from(self._data)[0]
        if length > self.limit:
            raise ProtocolError(f"a frame of {length} bytes exceeds the limit of {self.limit}")
        end = _LENGTH.size + length
        if len(self._data) < end:
            return None
        payload = bytes(self._data[_LENGTH.size : end])
        del self._data[:end]
        return payload


def frame(payload: bytes) -> bytes:
    """Prefix a payload with its length."""
    return _LENGTH.pack(len(payload)) + payload


def message(*fields: str | int) -> bytes:
    """Encode one message as a frame. Fields are escaped to ASCII, as the Gateway does since server
    version 153.
    """
    return frame(b"".join(str(field).encode("unicode_escape") + b"\0" for field in fields))


def fields_of(payload: bytes) -> list[str]:
    """Split a client's message into its fields. Raises ProtocolError unless it is NUL-terminated
    and has an id.
    """
    if not payload.endswith(b"\0"):
        raise ProtocolError("a message did not end with NUL")
    fields = payload[:-1].decode(errors="replace").split("\0")
    number(fields, 0)
    return fields


def number(fields: list[str], index: int) -> int:
    """Return a field as an int of at most 32 bits. Raises ProtocolError if it is absent or is not
    one.
    """
    if index >= len(fields):
        raise ProtocolError(f"message {fields[0][:20]!r} has no field {index}")
    text = fields[index]
    if not re.fullmatch(r"-?[0-9]{1,10}", text) or not -(2**31) <= int(text) < 2**31:
        raise ProtocolError(
            f"field {index} of message {fields[0][:20]!r} is no number: {text[:40]!r}"
        )
    return int(text)


@dataclass(frozen=True, slots=True)
class VersionRange:
    """What a client announced: the versions it speaks, both inclusive, and its connect options,
    such as +PACEAPI.
    """

    minimum: int
    maximum: int
    options: str

    def negotiate(self, server_version: int) -> int | None:
        """Return the version to speak, the smaller of both maxima; None if there is none that both
        know.
        """
        version = min(self.maximum, server_version)
        return version if max(self.minimum, MIN_SERVER_VERSION) <= version else None


def version_range(payload: bytes) -> VersionRange:
    """Parse "v157..178", "v213" or either with options. Raises ProtocolError for anything else."""
    match = _VERSION_RANGE.fullmatch(payload)
    if match is None:
        raise ProtocolError(f"not a version string: {payload[:40]!r}")
    minimum, maximum, options = match.groups()
    low, high = int(minimum), int(maximum or minimum)
    if low > high:
        raise ProtocolError(f"an empty range of versions: {payload[:40]!r}")
    return VersionRange(low, high, (options or b"").decode(errors="replace"))


def version_reply(version: int, connection_time: bytes) -> bytes:
    """The first frame of the Gateway: exactly two fields, the second in whatever encoding the host
    has.
    """
    return frame(b"%d\0%b\0" % (version, connection_time))


def error(
    version: int, code: int, text: str, *, milliseconds: int, request_id: int = NO_ID
) -> bytes:
    """Message 4 in the layout of the negotiated version; `milliseconds` is the wall time since
    1970.
    """
    if version >= _ERROR_TIME:
        return message(4, request_id, code, text, "", milliseconds)
    if version >= _ADVANCED_REJECT:
        return message(4, 2, request_id, code, text, "")
    return message(4, 2, request_id, code, text)


def managed_accounts(accounts: tuple[str, ...]) -> bytes:
    """Message 15."""
    return message(15, 1, ",".join(accounts))


def next_valid_id(order_id: int) -> bytes:
    """Message 9."""
    return message(9, 1, order_id)


def news_bulletin(text: str) -> bytes:
    """Message 14: a regular bulletin without an exchange."""
    return message(14, 1, 1, 1, text, "")
