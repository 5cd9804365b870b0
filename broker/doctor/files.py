"""The check of the files that decide who may come in: read as `serve` reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from broker.access.doorkeeper import EXPIRES_SOON, Doorkeeper
from broker.config import Configuration
from broker.doctor.case import Case
from broker.doctor.check import Finding, ok, warning, wrong
from broker.errors import SettingProblem, UnusableFileError
from broker.provenance import DEFAULT

_TLS: Final = ("tls_certificate", "tls_key", "tls_client_ca")


async def access(case: Case) -> Finding:
    """Whether `serve` would take certificate, key, client CA and access file, and for how long."""
    settings = case.settings
    if settings.access_file is None and not settings.tls_files:
        return ok("none are configured")
    problems = list(unusable(case.configuration, case.now))
    if problems:
        return wrong(
            "; ".join(str(problem) for problem in problems),
            "Correct the file, or the setting that names it; `serve` refuses to start with it.",
        )
    shown = Doorkeeper(tls=settings.tls_files, now=case.now).tls
    if shown is None:
        return ok("the access file can be used; there is no TLS")
    text = f"usable; the certificate expires at {shown.not_after:%Y-%m-%d %H:%M} UTC"
    if shown.not_after - case.now() < EXPIRES_SOON:
        return warning(text, "Renew it: a broker that runs takes up the new one by itself.")
    return ok(text)


def unusable(configuration: Configuration, now: Callable[[], datetime]) -> Iterator[SettingProblem]:
    """What is wrong with these files, each with the setting that names it.

    Args:
        configuration: which names them.
        now: the time, in UTC.
    """
    settings = configuration.settings
    try:
        Doorkeeper(access_file=settings.access_file, now=now)
    except UnusableFileError as error:
        yield _problem(configuration, "access_file", error)
    try:
        Doorkeeper(tls=settings.tls_files, now=now)
    except UnusableFileError as error:
        # The message begins with the file that is wrong.
        led = (name for name in _TLS if str(error).startswith(f"{getattr(settings, name)}:"))
        yield _problem(configuration, next(led), error)


def _problem(configuration: Configuration, field: str, error: UnusableFileError) -> SettingProblem:
    origin = configuration.origins.around((field,))
    text = " ".join(str(error).split("\n  "))
    return SettingProblem(field, text, source="" if origin is DEFAULT else str(origin))
