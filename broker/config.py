"""The configuration: the only reader of the environment.

Values come, strongest first, from the environment, from the TOML file that
``GATEWAY_BROKER_CONFIG`` names, and from the defaults here. Every setting has the
environment name ``GATEWAY_BROKER_<FIELD>``; some have the plain names that other
tools use too (``PLAIN_NAMES``). Unknown names in the file are refused, and variables whose
name is nearly that of a setting. ``broker.provenance`` knows where a value came from.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from broker import sources
from broker.errors import ConfigurationError, SettingProblem
from broker.gateway.base import GatewayKind
from broker.gateway.endpoint import GatewaySettings
from broker.gateway.maintenance import Calendar
from broker.provenance import Kind, Layer, Location, Origins, fields_at, problems
from broker.session.backoff import Backoff
from broker.session.budgets import Budgets
from broker.session.client_ids import HIGHEST, LOWEST, Pool

DEFAULT_GATEWAY: Final = "default"
OFF: Final = "off"
"""Says that nothing is to listen. An empty variable says nothing."""
PREFIX: Final = "GATEWAY_BROKER_"
PLAIN_NAMES: Final[Mapping[str, Location]] = {
    "DATABASE_URL": ("database_url",),
    "LOG_LEVEL": ("log_level",),
    "PROMETHEUS_PORT": ("prometheus_port",),
    "IB_GATEWAY_HOST": ("gateways", DEFAULT_GATEWAY, "host"),
    "IB_GATEWAY_PORT": ("gateways", DEFAULT_GATEWAY, "port"),
    "IB_GATEWAY_KIND": ("gateways", DEFAULT_GATEWAY, "kind"),
}
"""The settings that other tools share with us, under the names that they have there."""
_CALLER_FILES: Final = tuple(f"{PREFIX}{name}" for name in ("TLS_CA", "TOKEN_FILE", "CERT", "KEY"))
NO_SETTINGS: Final = frozenset({f"{PREFIX}CONFIG", f"{PREFIX}ADDRESS", *_CALLER_FILES})
"""Our variables that are read for something else than a setting."""
FROM_FILES: Final = ("DATABASE_URL",)
"""Variables whose value may be in a file, which the variable with _FILE at its end names."""
_OURS: Final = (PREFIX, "IB_GATEWAY_")
GATEWAY_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_HOST_NAME: Final = re.compile(r"[^\s:/@\[\]]+")
_LOOPBACK: Final = "loopback"
_REACHED_AT: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""Where a server that listens on all addresses is reached from its own machine."""
_ALL_ADDRESSES: Final = frozenset(host.strip("[]") for host in _REACHED_AT)


def _pool(value: object) -> object:
    if isinstance(value, str):
        first, dash, last = value.partition("-")
        if not dash or not first.strip().isdecimal() or not last.strip().isdecimal():
            raise ValueError("must be a range such as 100-999")
        value = Pool(int(first), int(last))
    if isinstance(value, Pool) and not LOWEST <= value.first <= value.last < HIGHEST:
        raise ValueError(f"must be a range between {LOWEST} and {HIGHEST - 1}, low end first")
    return value


def _maintenance(value: str) -> str:
    Calendar.of([value])
    return value


def _listen(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:50051")
    return value


def _database_url(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in ("postgresql", "postgres", "postgresql+asyncpg"):
        raise ValueError("must begin with postgresql:// (or postgresql+asyncpg://)")
    return f"postgresql://{rest}"


def _default_data_dir() -> Path:
    """Root's own directories are closed to the unprivileged user that runs its PostgreSQL."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/gateway-broker")
    return Path(platformdirs.user_data_dir("gateway-broker", appauthor=False))


def _collector(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    host, colon, port = rest.rpartition(":")
    if scheme not in ("http", "https") or not separator or not colon or not host:
        raise ValueError("must be http://HOST:PORT, or https://HOST:PORT for TLS")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError("must end in a port, such as http://127.0.0.1:4317")
    return value


def _listen_or_not(value: str) -> str:
    return "" if value in ("", OFF) else _listen(value)


def _host(value: str) -> str:
    """With brackets if it is of IPv6, so that a port can follow."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if _HOST_NAME.fullmatch(value):
        return value
    try:
        return f"[{ipaddress.IPv6Address(bare)}]"
    except ValueError:
        raise ValueError("must be a name or an address, such as 127.0.0.1 or [::1]") from None


def _level(value: object) -> object:
    """In capitals, unless it is none: then it is told as it was given."""
    is_one = isinstance(value, str) and value.upper() in get_args(LogLevel)
    return str(value).upper() if is_one else value


LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
ListenAddress = Annotated[str, AfterValidator(_listen)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Budget = Annotated[float, Field(ge=0.01, le=86400, allow_inf_nan=False)]


class GatewayConfig(BaseModel):
    """One gateway: a table ``[gateways.NAME]`` of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    host: str = Field(default="127.0.0.1", min_length=1, max_length=253)
    """Where the Gateway listens."""
    port: int = Field(default=4002, ge=1, le=65535)
    """Its API port: 4001 is live, 4002 is paper by IBKR's own defaults."""
    kind: GatewayKind = GatewayKind.UNKNOWN
    """Which accounts it may show: paper, live or unknown."""
    readonly: bool = False
    """Make every session of it read-only."""
    timeout: float = Field(default=30.0, ge=0.1, le=600, allow_inf_nan=False)
    """Seconds for one attempt, unless the caller says otherwise."""
    retry_max_attempts: int = Field(default=6, ge=0, le=99)
    """How often an open is retried after its first attempt."""
    retry_initial_delay: Seconds = 1.0
    """Seconds before the first retry; each later one waits twice as long."""
    retry_max_delay: Seconds = 32.0
    """Seconds before a retry at most."""
    retry_jitter: float = Field(default=0.2, ge=0, le=1, allow_inf_nan=False)
    """The fraction by which a delay is varied at random, up and down."""
    session_limit: int = Field(default=32, ge=1, le=32)
    """How many sessions may be open on it; a Gateway has 32 seats."""
    handshake_spacing: float = Field(default=0.05, ge=0, le=60, allow_inf_nan=False)
    """Seconds from the start of one handshake to that of the next."""
    heartbeat_interval: float = Field(default=10.0, ge=1.2, le=3600, allow_inf_nan=False)
    """Seconds of silence after which a connection is probed; a Gateway ignores what it is asked
    sooner than 1.1 s after its last answer."""
    heartbeat_timeout: Seconds = 5.0
    """Seconds that the answer to a probe may take."""
    auth_grace: float = Field(default=30.0, ge=0, le=3600, allow_inf_nan=False)
    """Seconds for which a Gateway is tried that accepts no sessions yet, as after its start."""
    health_check_interval: Seconds = 30.0
    """Seconds between two checks of an unreachable gateway that no session uses."""
    sentinel: bool = True
    """Keep one connection to a gateway that no session uses, so that its health is known."""
    circuit_breaker_failure_threshold: int = Field(default=5, ge=1, le=1000)
    """How many failures in a row open the circuit: new sessions are refused at once."""
    circuit_breaker_success_threshold: int = Field(default=2, ge=1, le=1000)
    """How many successes in a row close the circuit again."""
    circuit_breaker_timeout: Seconds = 30.0
    """Seconds that the circuit is open before a trial."""
    maintenance: list[Annotated[str, AfterValidator(_maintenance)]] = []
    """When loss of the link is expected: windows such as `Fri 23:00-03:00 America/New_York`, or a
    preset, IBKR's own resets: `ibkr-north-america`, `ibkr-europe`, `ibkr-asia`."""
    connecting_budget: Budget = 60.0
    """Seconds that a session may be CONNECTING before an alarm; more come at 2, 4, 8 … times it."""
    reconnecting_budget: Budget = 300.0
    """Seconds that a session may be RECONNECTING before an alarm, likewise."""
    condition_budget: Budget = 300.0
    """Seconds that a condition may be FALSE before an alarm, likewise."""
    client_ids: Annotated[Pool, BeforeValidator(_pool)] = Pool()
    """The ids for callers that name none, such as 100-999."""
    master_client_id: int | None = Field(default=None, ge=0, le=HIGHEST)
    """The Gateway's master client id, which is never given from the pool."""

    def settings(self, gateway_id: str) -> GatewaySettings:
        """This gateway as its endpoint takes it."""
        return GatewaySettings(
            gateway_id=gateway_id,
            host=self.host,
            port=self.port,
            kind=self.kind,
            readonly=self.readonly,
            timeout=self.timeout,
            max_attempts=self.retry_max_attempts + 1,
            session_limit=self.session_limit,
            handshake_spacing=self.handshake_spacing,
            heartbeat_timeout=self.heartbeat_timeout,
            client_ids=self.client_ids,
            master_client_id=self.master_client_id,
            backoff=Backoff(self.retry_initial_delay, self.retry_max_delay, self.retry_jitter),
            heartbeat_interval=self.heartbeat_interval,
            auth_grace=self.auth_grace,
            health_check_interval=self.health_check_interval,
            sentinel=self.sentinel,
            breaker_failures=self.circuit_breaker_failure_threshold,
            breaker_successes=self.circuit_breaker_success_threshold,
            breaker_timeout=self.circuit_breaker_timeout,
            maintenance=Calendar.of(self.maintenance),
            budgets=Budgets(
                connecting=self.connecting_budget,
                reconnecting=self.reconnecting_budget,
                condition=self.condition_budget,
            ),
        )


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    gateways: dict[str, GatewayConfig] = Field(default_factory=dict)
    """The gateways, by name."""
    grpc_listen: ListenAddress = "127.0.0.1:50051"
    """Where the gRPC server listens; port 0 takes a free one."""
    http_listen: Annotated[str, AfterValidator(_listen_or_not)] = "127.0.0.1:8080"
    """Where health and the console are served over HTTP; port 0 takes a free one, `off` serves
    neither. Beyond loopback health is open to all, the console to those with a token."""
    console_limit: int = Field(default=32, ge=1, le=1000)
    """How many consoles may be open at once."""
    metrics_host: Annotated[str, AfterValidator(_host)] = Field(
        default="127.0.0.1", min_length=1, max_length=253
    )
    """Where metrics are served over HTTP; beyond loopback whoever connects can read them."""
    prometheus_port: int = Field(default=9090, ge=0, le=65535)
    """The port of metrics; 0 takes a free one."""
    database_url: Annotated[str, AfterValidator(_database_url)] | None = None
    """The PostgreSQL to use; without it the broker runs one of its own in the data directory."""
    auto_migrate: bool = False
    """Migrate the database of DATABASE_URL at the start, instead of refusing to start."""
    data_dir: Path = Field(default_factory=_default_data_dir)
    """Where the broker's own PostgreSQL keeps its files."""
    session_limit: int = Field(default=10, ge=1, le=1000)
    """How many sessions may be open at once, over all gateways."""
    lease_limit: Seconds = 3600.0
    """Seconds that a lease may last without renewal; longer ones are shortened to it."""
    watch_memory: int = Field(default=2048, ge=16, le=1_000_000)
    """How many of the newest events are kept in memory for watchers; a watcher that lags behind
    them reads the record, at its own pace."""
    watch_lag: int = Field(default=100_000, ge=1000, le=1_000_000_000)
    """By how many events the lag of a watcher may grow before it is cut."""
    watcher_limit: int = Field(default=20_000, ge=1, le=1_000_000)
    """How many streams may come back at once."""
    bookmark_interval: Seconds = 10.0
    """Seconds without a message after which a watcher is told that nothing happened."""
    store_timeout: Seconds = 5.0
    """Seconds that the database may take to answer."""
    store_grace: Seconds = 0.25
    """Seconds that an event may wait for the database before watchers get it unpersisted."""
    open_unrecorded: bool = False
    """Open sessions while the database is away, instead of refusing to; what becomes of them is
    lost if the broker dies meanwhile."""
    retention_days: float = Field(default=90.0, gt=0, le=36_500, allow_inf_nan=False)
    """Days for which events are kept, and sessions that have ended."""
    retention_events: int = Field(default=1_000_000, ge=1000, le=10_000_000_000)
    """How many events are kept at most; the oldest are deleted."""
    retention_interval: Seconds = 300.0
    """Seconds between two looks for what is to be deleted."""
    stop_grace: Seconds = 10.0
    """Seconds that requests may take to end when the broker stops."""
    log_level: Annotated[LogLevel, BeforeValidator(_level)] = "INFO"
    """The least severe messages to log."""
    log_format: Literal["json", "console"] = "json"
    """How log lines are written."""
    tls_certificate: Path | None = None
    """Serve TLS with this certificate, in PEM, followed by those between it and its root."""
    tls_key: Path | None = None
    """The certificate's private key, in PEM."""
    tls_client_ca: Path | None = None
    """Let in only who shows a certificate of these authorities, in PEM."""
    tls_client_role: Literal["viewer", "trader", "operator"] = "viewer"
    """What a certificate is good for without an access file: viewer, trader or operator."""
    access_file: Path | None = None
    """Who may come in with which token or certificate, as what: docs/access.md."""
    metrics: bool = True
    """Count what happens, for Prometheus: docs/metrics.md."""
    traces_endpoint: Annotated[str, AfterValidator(_collector)] | None = None
    """The OTLP collector (gRPC) that gets traces, such as `http://127.0.0.1:4317`; it needs the
    extra `traces`. Without it there are none, and they cost nothing."""
    insecure_no_auth: bool = False
    """Listen beyond loopback although anybody who connects can then open sessions, or, with an
    access file and without TLS, although tokens can be read on their way."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given alone: ``read_configuration`` finds, and knows where."""
        return (init_settings,)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.gateways:
            self.gateways[DEFAULT_GATEWAY] = GatewayConfig()
        wrong: list[str] = []
        addresses: dict[tuple[str, int], str] = {}
        for name, gateway in self.gateways.items():
            if not GATEWAY_NAME.fullmatch(name):
                wrong.append(
                    f"gateways.{name}: a name is lower-case letters, digits and dashes, 63 at most"
                )
            address = (_canonical_host(gateway.host), gateway.port)
            if address in addresses:
                wrong.append(
                    f"gateways.{name}: is the same Gateway as gateways.{addresses[address]} "
                    f"({gateway.host}:{gateway.port}); two names would fight over its client ids"
                )
            addresses[address] = name
        wrong.extend(self._collisions())
        if (self.tls_certificate is None) != (self.tls_key is None):
            wrong.append("tls_certificate, tls_key: one is nothing without the other")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            wrong.append("tls_client_ca: needs tls_certificate and tls_key, too")
        if not is_loopback(self.grpc_listen) and not self.insecure_no_auth:
            wrong.extend(self._lacks_access())
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    @property
    def tls_files(self) -> tuple[Path, ...]:
        """Certificate, key and, if there is one, client CA; empty without TLS."""
        files = (self.tls_certificate, self.tls_key, self.tls_client_ca)
        return tuple(path for path in files if path is not None)

    @property
    def knows_callers(self) -> bool:
        """Whether callers must say who they are."""
        return self.access_file is not None or self.tls_client_ca is not None

    @property
    def metrics_listen(self) -> str:
        """Where metrics are served, as HOST:PORT; empty without any."""
        return f"{self.metrics_host}:{self.prometheus_port}" if self.metrics else ""

    def _collisions(self) -> Iterator[str]:
        """Which of our own servers could not listen beside another of ours."""
        servers = {
            "grpc_listen": self.grpc_listen,
            "http_listen": self.http_listen,
            "prometheus_port": self.metrics_listen,
        }
        for (one, at), (other, there) in itertools.combinations(servers.items(), 2):
            if at and there and _overlap(at, there):
                yield f"{other}: {there} is taken by {one} ({at}); give one of them another port"

    def _lacks_access(self) -> Iterator[str]:
        """Why this may not listen: anybody who connects could trade, or read a token on its way."""
        missing = []
        if self.tls_certificate is None:
            missing.append("tls_certificate and tls_key")
        if not self.knows_callers:
            missing.append("access_file or tls_client_ca")
        if missing:
            yield (
                f"grpc_listen: {self.grpc_listen} is beyond loopback, where callers must be known "
                f"and what they send must be encrypted; set {', and '.join(missing)} "
                "(`gateway-broker access init DIR` makes all of them for a trial), listen on "
                "127.0.0.1, or set insecure_no_auth if the network itself keeps strangers out"
            )


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and where they were found.

    Args:
        settings: the values.
        origins: where each was said.
        file: the file that was read; None if there is none.
        strays: variables that begin as ours do and are nobody's.
    """

    settings: Settings
    origins: Origins
    file: Path | None
    strays: tuple[str, ...]


def read_configuration(**overrides: Any) -> Configuration:
    """Read the configuration, and keep in mind where each value was said.

    Args:
        overrides: what a command line says, by field name.

    Raises:
        ConfigurationError: it is refused; each problem has its field and its source.
    """
    wrong: list[SettingProblem] = []
    strays = list(sources.strays(os.environ, _known_variables(), _OURS, _is_table, wrong))
    read = sources.secrets(os.environ, FROM_FILES, PLAIN_NAMES, wrong)
    file = os.environ.get(f"{PREFIX}CONFIG")
    origins = Origins(
        [
            sources.options(overrides),
            _variables(),
            sources.plain_names(os.environ, PLAIN_NAMES, read),
            *sources.file(file, f"{PREFIX}CONFIG", wrong),
        ]
    )
    try:
        settings = Settings(**origins.merged())
    except ValidationError as error:
        wrong.extend(problems(error, Settings, origins))
        raise ConfigurationError(wrong) from None
    if wrong:
        raise ConfigurationError(wrong)
    return Configuration(settings, origins, Path(file) if file else None, tuple(strays))


def load_settings(*, found: bool = True, **overrides: Any) -> Settings:
    """Read the configuration.

    Args:
        found: whether environment and file are read, too.
        overrides: what a command line says, by field name.

    Raises:
        ConfigurationError: it is refused; the message names each field and what is wrong with it.
    """
    if found:
        return read_configuration(**overrides).settings
    try:
        return Settings(**overrides)
    except ValidationError as error:
        origins = Origins([sources.options(overrides)])
        raise ConfigurationError(list(problems(error, Settings, origins))) from None


def dev_data_dir() -> Path:
    """Where ``gateway-broker dev`` keeps its database: apart from that of ``serve``."""
    return Path(os.environ.get("GATEWAY_BROKER_DATA_DIR") or _default_data_dir()) / "dev"


def broker_address() -> str:
    """Where a broker with this configuration listens.

    Raises:
        StartupError: the configuration is refused.
    """
    return reached_at(load_settings(insecure_no_auth=True).grpc_listen)


def reached_at(listen: str) -> str:
    """Where a server that listens there is reached from its own machine."""
    host, _, port = listen.rpartition(":")
    return f"{_REACHED_AT.get(host, host)}:{port}"


def access_file() -> Path | None:
    """Where the access file of this configuration is; None without one.

    Raises:
        StartupError: the configuration is refused.
    """
    return load_settings(insecure_no_auth=True).access_file


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is on this machine."""
    return _canonical_host(address.rpartition(":")[0]) == _LOOPBACK


def _overlap(one: str, other: str) -> bool:
    """Whether nobody can listen on both HOST:PORT; two free ports (0) are never the same."""
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    hosts = {name.strip("[]").lower().rstrip(".") for name in (host, other_host)}
    hosts = {"127.0.0.1" if name == "localhost" else name for name in hosts}
    is_shared = len(hosts) == 1 or not hosts.isdisjoint(_ALL_ADDRESSES)
    return is_shared and int(port) == int(other_port) != 0


class _Variables(EnvSettingsSource):
    """The variables with our prefix. What is no JSON stays text, which the field then refuses."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        """Read a value that is not one word."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def _variables() -> Layer:
    names = {name.lower(): name for name in os.environ}

    def name(location: Location) -> str:
        for end in range(len(location), 0, -1):
            variable = PREFIX + "__".join(str(part) for part in location[:end])
            if variable.lower() in names:
                return names[variable.lower()]
        below = PREFIX + "__".join(str(part) for part in (*location, ""))
        return ", ".join(names[name] for name in sorted(names) if name.startswith(below.lower()))

    return Layer(Kind.ENVIRONMENT, _Variables(Settings)(), name)


def _known_variables() -> list[str]:
    settings = [PREFIX + field.upper() for field in Settings.model_fields]
    return [*settings, *PLAIN_NAMES, *NO_SETTINGS, *(f"{name}_FILE" for name in FROM_FILES)]


def _is_table(variable: str) -> bool:
    field, nested, _ = variable.removeprefix(PREFIX).lower().partition("__")
    return bool(nested and fields_at(Settings, (field, "NAME")))


def _canonical_host(host: str) -> str:
    """localhost, 127.0.0.1 and ::1 are one host."""
    bare = host.strip("[]").lower().rstrip(".")
    try:
        return _LOOPBACK if ipaddress.ip_address(bare).is_loopback else bare
    except ValueError:
        return _LOOPBACK if bare == "localhost" else bare
