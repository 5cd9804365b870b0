from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_VIEWER: _ClassVar[Role]
    ROLE_TRADER: _ClassVar[Role]
    ROLE_OPERATOR: _ClassVar[Role]
ROLE_UNSPECIFIED: Role
ROLE_VIEWER: Role
ROLE_TRADER: Role
ROLE_OPERATOR: Role

class GetBrokerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BrokerLimits(_message.Message):
    __slots__ = ("sessions", "watchers", "watch_lag", "lease_ttl", "retention_age", "retention_events")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    WATCHERS_FIELD_NUMBER: _ClassVar[int]
    WATCH_LAG_FIELD_NUMBER: _ClassVar[int]
    LEASE_TTL_FIELD_NUMBER: _ClassVar[int]
    RETENTION_AGE_FIELD_NUMBER: _ClassVar[int]
    RETENTION_EVENTS_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    watchers: int
    watch_lag: int
    lease_ttl: _duration_pb2.Duration
    retention_age: _duration_pb2.Duration
    retention_events: int
    def __init__(self, sessions: _Optional[int] = ..., watchers: _Optional[int] = ..., watch_lag: _Optional[int] = ..., lease_ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., retention_age: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., retention_events: _Optional[int] = ...) -> None: ...

class BrokerAccess(_message.Message):
    __slots__ = ("caller", "role", "problem")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    caller: str
    role: Role
    problem: str
    def __init__(self, caller: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., problem: _Optional[str] = ...) -> None: ...

class GetBrokerInfoResponse(_message.Message):
    __slots__ = ("version", "instance", "store_id", "start_time", "capabilities", "limits", "epoch", "revision", "oldest_revision", "access")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OLDEST_REVISION_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    version: str
    instance: str
    store_id: str
    start_time: _timestamp_pb2.Timestamp
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    limits: BrokerLimits
    epoch: int
    revision: int
    oldest_revision: int
    access: BrokerAccess
    def __init__(self, version: _Optional[str] = ..., instance: _Optional[str] = ..., store_id: _Optional[str] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., capabilities: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[BrokerLimits, _Mapping]] = ..., epoch: _Optional[int] = ..., revision: _Optional[int] = ..., oldest_revision: _Optional[int] = ..., access: _Optional[_Union[BrokerAccess, _Mapping]] = ...) -> None: ...
