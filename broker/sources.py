"""The sources of the configuration, each read into a layer: options, variables, a file.

Names and values come in as arguments; what is wrong with a source as a whole is added to a list,
so that a refusal tells all of it at once.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from broker.errors import SettingProblem
from broker.provenance import Kind, Layer, Location, nearest

_SERVICE_LINK: Final = re.compile(
    r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")
"""What Kubernetes puts into every container: names that begin as each Service is called, and
``NAME_PORT``, which is known by its value."""


def options(values: Mapping[str, Any]) -> Layer:
    """What a command line says, by field."""
    return Layer(Kind.OPTION, values, lambda at: f"--{str(at[0]).replace('_', '-')}")


def plain_names(
    environ: Mapping[str, str], names: Mapping[str, Location], read: Mapping[str, str]
) -> Layer:
    """What variables say whose names are not made from ours; empty ones say nothing.

    Args:
        environ: the variables.
        names: each with the location of its setting.
        read: what ``secrets`` has read.
    """
    values: dict[str, Any] = {}
    given: dict[Location, str] = {}
    for name, location in names.items():
        variable = name if environ.get(name) else f"{name}_FILE"
        value = environ.get(name) or read.get(variable)
        if not value:
            continue
        table = values
        for part in location[:-1]:
            table = table.setdefault(str(part), {})
        table[str(location[-1])] = value
        given[location] = variable

    def name_of(location: Location) -> str:
        below = [name for at, name in given.items() if at[: len(location)] == location]
        above = [name for at, name in given.items() if location[: len(at)] == at]
        return ", ".join(above or below)

    return Layer(Kind.ENVIRONMENT, values, name_of)


def secrets(
    environ: Mapping[str, str],
    names: Sequence[str],
    settings: Mapping[str, Location],
    wrong: list[SettingProblem],
) -> Mapping[str, str]:
    """What is in the files that variables such as ``DATABASE_URL_FILE`` name, by variable.

    Args:
        environ: the variables.
        names: those whose value may be in a file, which is named by a variable with _FILE added.
        settings: the location of each one's setting.
        wrong: gets what is wrong with them.
    """
    read: dict[str, str] = {}
    for name in names:
        variable = f"{name}_FILE"
        path = environ.get(variable)
        if not path:
            continue
        field = ".".join(str(part) for part in settings[name])
        if environ.get(name):
            wrong.append(SettingProblem(field, f"{name} is set as well: say it once", "", variable))
            continue
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
            trouble = "" if text else "is empty"
        except (OSError, UnicodeDecodeError) as error:
            trouble = f"cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}"
        if trouble:
            wrong.append(SettingProblem(field, f"{path} {trouble}", "", variable))
        else:
            read[variable] = text
    return read


def strays(
    environ: Mapping[str, str],
    known: Sequence[str],
    prefixes: Sequence[str],
    is_table: Callable[[str], bool],
    wrong: list[SettingProblem],
) -> Iterator[str]:
    """The variables that begin as ours do, and are none of ours.

    Those whose name is nearly one of ours are not among them, but ``wrong``.

    Args:
        environ: all variables.
        known: ours.
        prefixes: how ours begin.
        is_table: whether a variable, in capitals, is one of a table: the model reads those.
        wrong: gets what is wrong with them.
    """
    for name in sorted(environ):
        upper = name.upper()
        prefix = next((own for own in prefixes if upper.startswith(own)), None)
        if prefix is None or upper in known or is_table(upper):
            continue
        if _SERVICE_LINK.fullmatch(upper.removeprefix(prefix)) or _LINK_VALUE.match(environ[name]):
            continue
        names = [own.removeprefix(prefix) for own in known if own.startswith(prefix)]
        meant = nearest(upper.removeprefix(prefix), names)
        if meant is None:
            yield name
        else:
            text = f"there is no such setting; did you mean {prefix}{meant}?"
            wrong.append(SettingProblem(name, text, "", "the environment"))


def file(name: str | None, variable: str, wrong: list[SettingProblem]) -> Iterator[Layer]:
    """What a file says.

    Args:
        name: its path; None or empty is no file.
        variable: what names it.
        wrong: gets what keeps it from being read.
    """
    if not name:
        return
    try:
        text = Path(name).read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        wrong.append(SettingProblem(variable, f"{name}: {error.strerror}"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        wrong.append(SettingProblem(variable, f"{name} is not TOML: {error}"))
    else:
        yield Layer(Kind.FILE, values, lambda location: _place(name, text, location))


def _place(name: str, text: str, location: Location) -> str:
    line = lines_of(text).get(location)
    return f"{name}, line {line}" if line else name


@functools.lru_cache(maxsize=1)
def lines_of(text: str) -> Mapping[Location, int]:
    """The line, from 1, on which TOML says the value of each location.

    It is the first that completes a document which has the value: tomllib tells no lines. A value
    of several lines begins on the first of them, behind the last line that was whole without it.
    """
    lines = text.splitlines(keepends=True)
    found: dict[Location, int] = {}
    table = whole = 0
    for end in range(1, len(lines) + 1):
        if lines[whole].lstrip().startswith("["):
            table = whole  # what is above has no part in what is below
        try:
            values = tomllib.loads("".join(lines[table:end]))
        except tomllib.TOMLDecodeError:
            continue
        for location in _locations(values, ()):
            found.setdefault(location, whole + 1)
        whole = end
    return found


def _locations(value: Any, location: Location) -> Iterator[Location]:
    yield location
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for name, part in parts:
        if isinstance(part, dict | list):
            yield from _locations(part, (*location, name))
        else:
            yield (*location, name)
