"""What a command shows to a broker: options that every command has that reaches one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from broker.access.guarded import GuardedFile
from broker.config import CallerFiles, caller_files, is_loopback

SYSTEM: Final = "system"
_PANEL: Final = "Broker beyond loopback"


def _option(flag: str, text: str) -> Any:
    option = typer.Option(
        flag, metavar="FILE", help=text, show_default=False, rich_help_panel=_PANEL
    )
    return Annotated[str | None, option]


_OPTIONS: Final[Mapping[str, Any]] = {
    "tls_ca": _option(
        "--tls-ca",
        "Reach the broker over TLS, and trust these certificates, in PEM; `system` trusts the "
        "well-known authorities. Default: GATEWAY_BROKER_TLS_CA, else plain text.",
    ),
    "token": _option(
        "--token-file", "Show the token in this file. Default: GATEWAY_BROKER_TOKEN_FILE."
    ),
    "certificate": _option(
        "--cert", "Show this certificate, in PEM. Default: GATEWAY_BROKER_CERT."
    ),
    "key": _option("--key", "The key of that certificate. Default: GATEWAY_BROKER_KEY."),
}
_given: ContextVar[CallerFiles | None] = ContextVar("_given", default=None)


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
    told, found = _given.get() or CallerFiles(), caller_files()
    files = replace(
        found,
        **{field.name: value for field in fields(told) if (value := getattr(told, field.name))},
    )
    is_tls = files.tls_ca is not None
    if (files.certificate is None) != (files.key is None):
        raise typer.BadParameter("one is nothing without the other", param_hint="--cert, --key")
    if files.certificate is not None and not is_tls:
        raise typer.BadParameter("is shown over TLS only: give --tls-ca, too", param_hint="--cert")
    if files.token is not None and not is_tls and not is_loopback(address):
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


def equip(app: typer.Typer) -> None:
    """Give every command that reaches a broker, one with an option ``broker``, those of a caller.

    Here, and not in each of them, so that none is left out.
    """
    for group in app.registered_groups:
        if group.typer_instance is not None:
            equip(group.typer_instance)
    for command in app.registered_commands:
        if command.callback is not None and "broker" in signature(command.callback).parameters:
            command.callback = _equipped(command.callback)


def _equipped(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def equipped(**values: Any) -> Any:
        _given.set(CallerFiles(**{name: values.pop(name) for name in _OPTIONS}))
        return command(**values)

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
