"""Where a server of the command line listens."""

from __future__ import annotations

from dataclasses import dataclass

import typer


@dataclass(frozen=True, slots=True)
class Address:
    """A host, without brackets, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen_address(text: str, option: str) -> Address:
    """Read HOST:PORT.

    Args:
        text: what was given.
        option: by which option, for the message.

    Raises:
        typer.BadParameter: it is not HOST:PORT.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (colon and host and port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise typer.BadParameter(
            f"{text!r} is not HOST:PORT, such as 127.0.0.1:4002 or [::1]:4002", param_hint=option
        )
    return Address(host, int(port))
