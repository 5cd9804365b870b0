from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ibgateway.broker.v1 import error_pb2 as _error_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GatewayKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GATEWAY_KIND_UNSPECIFIED: _ClassVar[GatewayKind]
    GATEWAY_KIND_UNKNOWN: _ClassVar[GatewayKind]
    GATEWAY_KIND_PAPER: _ClassVar[GatewayKind]
    GATEWAY_KIND_LIVE: _ClassVar[GatewayKind]

class CircuitBreakerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CIRCUIT_BREAKER_STATE_UNSPECIFIED: _ClassVar[CircuitBreakerState]
    CIRCUIT_BREAKER_STATE_CLOSED: _ClassVar[CircuitBreakerState]
    CIRCUIT_BREAKER_STATE_OPEN: _ClassVar[CircuitBreakerState]
    CIRCUIT_BREAKER_STATE_HALF_OPEN: _ClassVar[CircuitBreakerState]
GATEWAY_KIND_UNSPECIFIED: GatewayKind
GATEWAY_KIND_UNKNOWN: GatewayKind
GATEWAY_KIND_PAPER: GatewayKind
GATEWAY_KIND_LIVE: GatewayKind
CIRCUIT_BREAKER_STATE_UNSPECIFIED: CircuitBreakerState
CIRCUIT_BREAKER_STATE_CLOSED: CircuitBreakerState
CIRCUIT_BREAKER_STATE_OPEN: CircuitBreakerState
CIRCUIT_BREAKER_STATE_HALF_OPEN: CircuitBreakerState

class ClientIdHolder(_message.Message):
    __slots__ = ("client_id", "session_id", "owner")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    client_id: int
    session_id: str
    owner: str
    def __init__(self, client_id: _Optional[int] = ..., session_id: _Optional[str] = ..., owner: _Optional[str] = ...) -> None: ...

class QuarantinedClientId(_message.Message):
    __slots__ = ("client_id", "reason", "quarantine_time")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    QUARANTINE_TIME_FIELD_NUMBER: _ClassVar[int]
    client_id: int
    reason: str
    quarantine_time: _timestamp_pb2.Timestamp
    def __init__(self, client_id: _Optional[int] = ..., reason: _Optional[str] = ..., quarantine_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CircuitBreaker(_message.Message):
    __slots__ = ("state", "failures", "half_open_time")
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    HALF_OPEN_TIME_FIELD_NUMBER: _ClassVar[int]
    state: CircuitBreakerState
    failures: int
    half_open_time: _timestamp_pb2.Timestamp
    def __init__(self, state: _Optional[_Union[CircuitBreakerState, str]] = ..., failures: _Optional[int] = ..., half_open_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("actor", "reason", "drain_time")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DRAIN_TIME_FIELD_NUMBER: _ClassVar[int]
    actor: str
    reason: str
    drain_time: _timestamp_pb2.Timestamp
    def __init__(self, actor: _Optional[str] = ..., reason: _Optional[str] = ..., drain_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Gateway(_message.Message):
    __slots__ = ("gateway_id", "kind", "host", "port", "readonly", "reachable", "reachable_time", "server_version", "sessions_used", "session_limit", "client_ids", "last_failure", "quarantined_client_ids", "circuit_breaker", "drain", "next_attempt_time", "maintenance_end_time")
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    READONLY_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_TIME_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_USED_FIELD_NUMBER: _ClassVar[int]
    SESSION_LIMIT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    LAST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    CIRCUIT_BREAKER_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    NEXT_ATTEMPT_TIME_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    kind: GatewayKind
    host: str
    port: int
    readonly: bool
    reachable: bool
    reachable_time: _timestamp_pb2.Timestamp
    server_version: int
    sessions_used: int
    session_limit: int
    client_ids: _containers.RepeatedCompositeFieldContainer[ClientIdHolder]
    last_failure: _error_pb2.ConnectionFailure
    quarantined_client_ids: _containers.RepeatedCompositeFieldContainer[QuarantinedClientId]
    circuit_breaker: CircuitBreaker
    drain: Drain
    next_attempt_time: _timestamp_pb2.Timestamp
    maintenance_end_time: _timestamp_pb2.Timestamp
    def __init__(self, gateway_id: _Optional[str] = ..., kind: _Optional[_Union[GatewayKind, str]] = ..., host: _Optional[str] = ..., port: _Optional[int] = ..., readonly: bool = ..., reachable: bool = ..., reachable_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., server_version: _Optional[int] = ..., sessions_used: _Optional[int] = ..., session_limit: _Optional[int] = ..., client_ids: _Optional[_Iterable[_Union[ClientIdHolder, _Mapping]]] = ..., last_failure: _Optional[_Union[_error_pb2.ConnectionFailure, _Mapping]] = ..., quarantined_client_ids: _Optional[_Iterable[_Union[QuarantinedClientId, _Mapping]]] = ..., circuit_breaker: _Optional[_Union[CircuitBreaker, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., next_attempt_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., maintenance_end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
