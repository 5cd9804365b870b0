"""The table of all checks. One more is a function and a row."""

from __future__ import annotations

from functools import partial
from typing import Final

from broker.config import Settings
from broker.doctor import addresses, database, files, gateway, machine
from broker.doctor.case import Case
from broker.doctor.check import Check

_BROKER: Final = (
    Check[Case]("python", machine.python),
    Check[Case]("event loop", machine.event_loop),
    Check("open files", machine.open_files),
    Check("data directory", machine.data_directory),
    Check("access files", files.access),
    Check("grpc_listen", addresses.grpc),
)
_DATABASE: Final = (
    Check("database", database.database, needs=("data directory",)),
    Check("database schema", database.migrations, needs=("database",)),
    Check("database lock", database.lock, needs=("database",), after=("grpc_listen",)),
    Check("database clock", database.clock, needs=("database",)),
)


def checks(settings: Settings) -> list[Check[Case]]:
    """All checks for a configuration, in the order in which they are told."""
    others = [
        Check[Case](name, partial(addresses.other, name=name), after=("grpc_listen",))
        for name in type(settings).model_fields
        if name.endswith(("_listen", "_port")) and name != "grpc_listen"
    ]
    rows: list[Check[Case]] = [*_BROKER, *others, *_DATABASE]
    for name in settings.gateways:
        rows += _gateway(name)
    return rows


def _gateway(name: str) -> list[Check[Case]]:
    row = f"gateway {name}"
    link = f"{row}: connection"
    return [
        Check(f"{row}: host", partial(gateway.host, name=name)),
        Check(
            link,
            partial(gateway.connection, name=name),
            needs=(f"{row}: host",),
            after=("grpc_listen", "database"),
        ),
        Check(f"{row}: accounts", partial(gateway.accounts, name=name), needs=(link,)),
        Check(f"{row}: upstream", partial(gateway.upstream, name=name), needs=(link,)),
        Check(f"{row}: clock", partial(gateway.clock, name=name), needs=(link,)),
    ]
