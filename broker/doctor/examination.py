"""One examination from end to end: the configuration first, then whatever it names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from broker.config import Configuration, read_configuration
from broker.doctor import machine
from broker.doctor.case import Ask, Case
from broker.doctor.check import Check, Finding, Result, examine, ok, skipped, warning, wrong
from broker.doctor.doubts import doubts
from broker.doctor.table import checks
from broker.errors import ConfigurationError
from broker.provenance import Kind


async def examine_all(
    *,
    ask: Ask,
    now: Callable[[], datetime],
    timeout: float,
    tell: Callable[[Result], None],
    waits: Callable[[str], None],
) -> list[Result]:
    """Read the configuration, and look at everything that it names.

    Args:
        ask: asks a broker that runs already.
        now: the time, in UTC.
        timeout: seconds for all checks together.
        tell: called with each result, in order.
        waits: called with the name of each check that takes more than a second.
    """
    run = partial(examine, timeout=timeout, tell=tell, waits=waits)
    try:
        configuration = read_configuration()
    except ConfigurationError as error:
        return await run(_without(error), None)
    first: Check[Case] = Check("configuration", _read)
    case = Case(configuration, ask=ask, now=now)
    return await run([first, *checks(configuration.settings)], case)


async def _read(case: Case) -> Finding:
    configuration = case.configuration
    text = f"{_sources(configuration)}; gateways: {', '.join(case.settings.gateways)}"
    doubted = [doubt for doubt in doubts(configuration) if not doubt.told]
    if not doubted:
        return ok(text)
    told = "; ".join(f"{doubt.field}: {doubt.text}" for doubt in doubted)
    return warning(f"{text}. {told}", "`gateway-broker config check` says what to do about each.")


def _sources(configuration: Configuration) -> str:
    layers = configuration.origins.layers
    given = any(layer.values for layer in layers if layer.kind is Kind.ENVIRONMENT)
    file = str(configuration.file) if configuration.file is not None else ""
    return " and ".join(part for part in (file, "the environment" if given else "") if part) or (
        "nothing is set: all values are defaults"
    )


def _without(error: ConfigurationError) -> list[Check[None]]:
    async def refused(_case: None) -> Finding:
        return wrong(
            "; ".join(str(problem) for problem in error.problems),
            "Correct it where it is said; docs/settings.md has every setting with its range. "
            "`serve` refuses to start with it.",
        )

    async def rest(_case: None) -> Finding:
        return skipped("database, gateways and addresses are not known without a configuration")

    return [
        Check("configuration", refused),
        Check("python", machine.python),
        Check("event loop", machine.event_loop),
        Check("everything else", rest),
    ]
