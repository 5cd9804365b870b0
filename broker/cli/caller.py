"""What a command shows to a broker: options that every command has that reaches one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from ibgateway.client.connection import is_local

from broker.access.guarded import GuardedFile

SYSTEM: Final = "system"
_PANEL: Final = "Broker beyond loopback"


def _option(flag: str, variable: str, text: str) -> Any:
    option = typer.Option(
        flag,
        metavar="FILE",
        envvar=variable,
        help=text,
        show_default=False,
        rich_help_panel=_PANEL,
    )
    return Annotated[str | None, option]


_OPTIONS: Final[Mapping[str, Any]] = {
    "tls_ca": _option(
        "--tls-ca",
        "GATEWAY_BROKER_TLS_CA",
        "Reach the broker over TLS, and trust these certificates, in PEM; `system` trusts the "
        "well-known authorities. Default: plain text.",
    ),
    "token": _option("--token-file", "GATEWAY_BROKER_TOKEN_FILE", "Show the token in this file."),
    "certificate": _option("--cert", "GATEWAY_BROKER_CERT", "Show this certificate, in PEM."),
    "key": _option("--key", "GATEWAY_BROKER_KEY", "The key of that certificate."),
}


@dataclass(frozen=True, slots=True)
class CallerFiles:
    """What a command shows to a broker, and whom it trusts.

    Args:
        tls_ca: whose certificates are trusted; ``system`` for those that gRPC knows.
        token: the file with the token.
        certificate: the file with the certificate of the caller.
        key: the file with the key of that.
    """

    tls_ca: str | None = None
    token: str | None = None
    certificate: str | None = None
    key: str | None = None


_given: ContextVar[CallerFiles] = ContextVar("_given", default=CallerFiles())  # noqa: B039 - frozen


@dataclass(frozen=True, slots=True)
class Caller:
    """What is shown, and trusted.

    Args:
        is_tls: whether the broker is reached over TLS.
        roots: whom to trust, in PEM; None is whom gRPC knows.
        certificate: of the caller, in PEM.
        key: of that.
        token: empty for none.
    """

    is_tls: bool
    roots: bytes | None
    certificate: bytes | None
    key: bytes | None
    token: str


def caller(address: str) -> Caller:
    """What the command that runs was told to show.

    Args:
        address: of the broker.

    Raises:
        typer.BadParameter: the options do not go together, or would show a token to everybody.
        UnusableFileError: a file cannot be read, or others can read it.
    """
    files = _given.get()
    is_tls = files.tls_ca is not None
    if (files.certificate is None) != (files.key is None):
        raise typer.BadParameter("one is nothing without the other", param_hint="--cert, --key")
    if files.certificate is not None and not is_tls:
        raise typer.BadParameter("is shown over TLS only: give --tls-ca, too", param_hint="--cert")
    if files.token is not None and not is_tls and not is_local(address):
        raise typer.BadParameter(
            f"a token is shown over TLS only, and to this machine, not to {address} in plain text: "
            "give --tls-ca, too",
            param_hint="--token-file",
        )
    return Caller(
        is_tls,
        None if files.tls_ca in (None, SYSTEM) else _read(files.tls_ca),
        _read(files.certificate),
        _read(files.key, is_secret=True),
        (_read(files.token, is_secret=True) or b"").decode(errors="replace").strip(),
    )


def _read(path: str | None, *, is_secret: bool = False) -> bytes | None:
    return None if path is None else GuardedFile(Path(path), is_secret=is_secret).read()


def give(values: Mapping[str, Any]) -> None:
    """Say what the options of this command are."""
    _given.set(CallerFiles(**{name: values.get(name) for name in _OPTIONS}))


def equip(app: typer.Typer) -> None:
    """Give every command that reaches a broker, one with an option ``broker``, those of a caller.

    Here, and not in each of them, so that none is left out.
    """
    for group in app.registered_groups:
        if group.typer_instance is not None:
            equip(group.typer_instance)
    for command in app.registered_commands:
        if command.callback is None:
            continue
        known = signature(command.callback).parameters
        if "broker" in known and not known.keys() & _OPTIONS.keys():
            command.callback = _equipped(command.callback)


def _equipped(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def equipped(**values: Any) -> Any:
        give(values)
        return command(**{name: value for name, value in values.items() if name not in _OPTIONS})

    told = signature(command, eval_str=True)
    more = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _OPTIONS.items()
    ]
    equipped.__signature__ = told.replace(  # type: ignore[attr-defined]
        parameters=[*told.parameters.values(), *more]
    )
    equipped.__annotations__ = {
        **{name: parameter.annotation for name, parameter in told.parameters.items()},
        **_OPTIONS,
    }
    return equipped
