"""Where each value of the configuration was said, and how what is refused is named.

The configuration comes in layers: the command line, the environment, a file, the defaults. This
module knows layers and pydantic's models in general, and no setting in particular, so that a new
setting is covered by itself. It reads nothing: ``broker.config`` does.
"""

from __future__ import annotations

import difflib
import enum
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_plus

from pydantic import BaseModel, ValidationError

from broker.errors import SettingProblem

Location: TypeAlias = tuple[str | int, ...]
"""Where a value is in the configuration, such as ``("gateways", "paper", "port")``."""

MASK: Final = "***"

_NEAR: Final = 0.75
"""How alike two names are (0 to 1) for the one to be the other, mistyped."""
_SECRET: Final = re.compile(r"(^|_)(password|passphrase|passwd|secret|token|credentials|api_key)$")
_ADDRESS: Final = re.compile(r"(^|_)(url|uri|dsn)$")
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")
_LINKED: Final = (
    "; Kubernetes sets this variable for a Service of that name: set it in the pod yourself, or "
    "say enableServiceLinks: false"
)


class Kind(enum.StrEnum):
    """What a value came from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    OPTION = "option"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was said.

    Args:
        kind: what it came from.
        name: the variable, the option, or the file with the line; empty for a default.
    """

    kind: Kind
    name: str = ""

    def __str__(self) -> str:
        """As people read it."""
        return self.name or self.kind.value


DEFAULT: Final = Origin(Kind.DEFAULT)


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one source.

    Args:
        kind: which.
        values: nested as the configuration is.
        name: says where in the source the value of a location was said.
    """

    kind: Kind
    values: Mapping[str, Any]
    name: Callable[[Location], str]

    def has(self, location: Location) -> bool:
        """Whether it says anything of a location."""
        value: Any = self.values
        try:
            for part in location:
                value = value[part]
        except (LookupError, TypeError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the values of one configuration were said; ``layers`` begin with the strongest."""

    layers: Sequence[Layer] = ()

    def of(self, location: Location) -> Origin:
        """Where the value of a location was said."""
        for layer in self.layers:
            if layer.has(location):
                return Origin(layer.kind, layer.name(location))
        return DEFAULT

    def around(self, location: Location) -> Origin:
        """Where the value of a location, or else what it is a part of, was said."""
        for end in range(len(location), 0, -1):
            origin = self.of(location[:end])
            if origin is not DEFAULT:
                return origin
        return DEFAULT

    def merged(self) -> dict[str, Any]:
        """All layers as one, the strongest winning value by value."""
        merged: dict[str, Any] = {}
        for layer in reversed(self.layers):
            merged = _merge(merged, layer.values)
        return merged


def _merge(weaker: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(weaker)
    for name, value in stronger.items():
        below = merged.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[name] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


# -- names --------------------------------------------------------------------------


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The name that was probably meant; None if none is near."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)), None)


def fields_at(model: type[BaseModel], location: Location) -> Sequence[str]:
    """The names that a table of the configuration may have; empty where it is no table."""
    found: Any = model
    for part in location:
        if isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields.get(str(part))
            found = field.annotation if field is not None else None
        elif typing.get_origin(found) is dict:
            found = typing.get_args(found)[1]
        else:
            return ()
    if isinstance(found, type) and issubclass(found, BaseModel):
        return list(found.model_fields)
    return ()


# -- what is refused ----------------------------------------------------------------


def problems(
    error: ValidationError, model: type[BaseModel], origins: Origins
) -> Iterator[SettingProblem]:
    """Everything that is wrong with the values, each with its field and where it was said."""
    for item in error.errors():
        location: Location = item["loc"]
        text = item["msg"].removeprefix("Value error, ")
        if not location:
            # A rule over several settings: a line for each breach, led by its field.
            for line in text.splitlines():
                field, _, rest = line.partition(": ")
                at = tuple(field.split("."))
                led = at[0] in model.model_fields
                yield _problem(origins, at if led else ("configuration",), rest if led else line)
        elif item["type"] == "extra_forbidden":
            yield _problem(origins, location, _stray(model, location))
        else:
            value = item["input"]
            if isinstance(value, str) and _LINK_VALUE.match(value):
                text += _LINKED
            yield _problem(origins, location, text, _shown(location, value))


def _problem(origins: Origins, location: Location, text: str, got: str = "") -> SettingProblem:
    origin = origins.around(location)
    field = ".".join(str(part) for part in location)
    return SettingProblem(field, text, got, "" if origin is DEFAULT else str(origin))


def _stray(model: type[BaseModel], location: Location) -> str:
    """What to say of a name that no setting has."""
    name = str(location[-1])
    beside = fields_at(model, location[:-1])
    meant = nearest(name, beside)
    if meant is not None:
        return f"there is no such setting; did you mean {meant}?"
    if location[:-1] and name in model.model_fields:
        return "is a setting of the broker, not of a table: it belongs above the first [table]"
    for field, info in model.model_fields.items():
        if typing.get_origin(info.annotation) is dict and name in fields_at(model, (field, "*")):
            return f"is a setting of a table: it belongs below [{field}.NAME]"
    return f"there is no such setting; there are: {', '.join(beside)}"


def _shown(location: Location, value: object) -> str:
    """What was given, unless it may hold a password: one that is refused cannot be taken apart."""
    if not isinstance(value, str | int | float):
        return ""
    if any(is_secret(str(part)) or _ADDRESS.search(str(part)) for part in location):
        return ""
    return "" if isinstance(value, str) and "@" in value else repr(value)


# -- what is not shown --------------------------------------------------------------


def is_secret(name: str) -> bool:
    """Whether the value of a setting of this name is nobody's business."""
    return _SECRET.search(name) is not None


def masked(location: Location, value: Any) -> Any:
    """A value as it may be shown: without secrets, and without the passwords in addresses."""
    if isinstance(value, str):
        if value and location and is_secret(str(location[-1])):
            return MASK
        return _masked_url(value) if _URL.match(value) else value
    if isinstance(value, list | tuple):
        return [masked(location, item) for item in value]
    return value


def _masked_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    place, mark, query = rest.partition("#" if "#" in rest.partition("?")[0] else "?")
    if "@" in query or mark == "#":
        # A password that should have been escaped, perhaps: what ends where is anybody's guess.
        return f"{scheme}://{MASK}"
    # All up to the last @: a password may hold a slash that should have been escaped.
    credentials, at, place = place.rpartition("@")
    user, colon, _ = credentials.partition(":")
    pairs = "&".join(_masked_pair(pair) for pair in query.split("&"))
    return f"{scheme}://{user}{colon}{MASK if colon else ''}{at}{place}{mark}{pairs}"


def _masked_pair(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    key = unquote_plus(name).lower()
    secret = is_secret(key) or key in ("sslpassword", "pwd", "pass", "key", "signature", "sig")
    return f"{name}={MASK}" if equals and secret else pair
