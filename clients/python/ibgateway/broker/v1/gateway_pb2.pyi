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
GATEWAY_KIND_UNSPECIFIED: GatewayKind
GATEWAY_KIND_UNKNOWN: GatewayKind
GATEWAY_KIND_PAPER: GatewayKind
GATEWAY_KIND_LIVE: GatewayKind

class ClientIdHolder(_message.Message):
    __slots__ = ("client_id", "session_id", "owner")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    client_id: int
    session_id: str
    owner: str
    def __init__(self, client_id: _Optional[int] = ..., session_id: _Optional[str] = ..., owner: _Optional[str] = ...) -> None: ...

class Gateway(_message.Message):
    __slots__ = ("gateway_id", "kind", "host", "port", "readonly", "reachable", "reachable_time", "server_version", "sessions_used", "session_limit", "client_ids", "last_failure")
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
    def __init__(self, gateway_id: _Optional[str] = ..., kind: _Optional[_Union[GatewayKind, str]] = ..., host: _Optional[str] = ..., port: _Optional[int] = ..., readonly: bool = ..., reachable: bool = ..., reachable_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., server_version: _Optional[int] = ..., sessions_used: _Optional[int] = ..., session_limit: _Optional[int] = ..., client_ids: _Optional[_Iterable[_Union[ClientIdHolder, _Mapping]]] = ..., last_failure: _Optional[_Union[_error_pb2.ConnectionFailure, _Mapping]] = ...) -> None: ...
