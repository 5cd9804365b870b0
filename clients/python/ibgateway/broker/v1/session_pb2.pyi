from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ibgateway.broker.v1 import error_pb2 as _error_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_STATE_UNSPECIFIED: _ClassVar[SessionState]
    SESSION_STATE_DISCONNECTED: _ClassVar[SessionState]
    SESSION_STATE_CONNECTING: _ClassVar[SessionState]
    SESSION_STATE_CONNECTED: _ClassVar[SessionState]
    SESSION_STATE_RECONNECTING: _ClassVar[SessionState]
    SESSION_STATE_FAILED: _ClassVar[SessionState]

class ConditionStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONDITION_STATUS_UNSPECIFIED: _ClassVar[ConditionStatus]
    CONDITION_STATUS_TRUE: _ClassVar[ConditionStatus]
    CONDITION_STATUS_FALSE: _ClassVar[ConditionStatus]
    CONDITION_STATUS_UNKNOWN: _ClassVar[ConditionStatus]
SESSION_STATE_UNSPECIFIED: SessionState
SESSION_STATE_DISCONNECTED: SessionState
SESSION_STATE_CONNECTING: SessionState
SESSION_STATE_CONNECTED: SessionState
SESSION_STATE_RECONNECTING: SessionState
SESSION_STATE_FAILED: SessionState
CONDITION_STATUS_UNSPECIFIED: ConditionStatus
CONDITION_STATUS_TRUE: ConditionStatus
CONDITION_STATUS_FALSE: ConditionStatus
CONDITION_STATUS_UNKNOWN: ConditionStatus

class Condition(_message.Message):
    __slots__ = ("type", "subject", "status", "reason", "message", "tws_code", "transition_time")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TWS_CODE_FIELD_NUMBER: _ClassVar[int]
    TRANSITION_TIME_FIELD_NUMBER: _ClassVar[int]
    type: str
    subject: str
    status: ConditionStatus
    reason: str
    message: str
    tws_code: int
    transition_time: _timestamp_pb2.Timestamp
    def __init__(self, type: _Optional[str] = ..., subject: _Optional[str] = ..., status: _Optional[_Union[ConditionStatus, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., tws_code: _Optional[int] = ..., transition_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("session_id", "gateway_id", "client_id", "client_id_changed", "readonly", "state", "conditions", "generation", "sequence", "revision", "owner", "labels", "accounts", "server_version", "attempt", "next_attempt_time", "last_failure", "close_reason", "error_count", "heartbeat_latency", "create_time", "connect_time", "state_time", "disconnect_time", "lease_expire_time", "lease_ttl")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_CHANGED_FIELD_NUMBER: _ClassVar[int]
    READONLY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NEXT_ATTEMPT_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_COUNT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_LATENCY_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    CONNECT_TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_TIME_FIELD_NUMBER: _ClassVar[int]
    DISCONNECT_TIME_FIELD_NUMBER: _ClassVar[int]
    LEASE_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    LEASE_TTL_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    gateway_id: str
    client_id: int
    client_id_changed: bool
    readonly: bool
    state: SessionState
    conditions: _containers.RepeatedCompositeFieldContainer[Condition]
    generation: int
    sequence: int
    revision: int
    owner: str
    labels: _containers.ScalarMap[str, str]
    accounts: _containers.RepeatedScalarFieldContainer[str]
    server_version: int
    attempt: int
    next_attempt_time: _timestamp_pb2.Timestamp
    last_failure: _error_pb2.ConnectionFailure
    close_reason: str
    error_count: int
    heartbeat_latency: _duration_pb2.Duration
    create_time: _timestamp_pb2.Timestamp
    connect_time: _timestamp_pb2.Timestamp
    state_time: _timestamp_pb2.Timestamp
    disconnect_time: _timestamp_pb2.Timestamp
    lease_expire_time: _timestamp_pb2.Timestamp
    lease_ttl: _duration_pb2.Duration
    def __init__(self, session_id: _Optional[str] = ..., gateway_id: _Optional[str] = ..., client_id: _Optional[int] = ..., client_id_changed: bool = ..., readonly: bool = ..., state: _Optional[_Union[SessionState, str]] = ..., conditions: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ..., generation: _Optional[int] = ..., sequence: _Optional[int] = ..., revision: _Optional[int] = ..., owner: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., accounts: _Optional[_Iterable[str]] = ..., server_version: _Optional[int] = ..., attempt: _Optional[int] = ..., next_attempt_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_failure: _Optional[_Union[_error_pb2.ConnectionFailure, _Mapping]] = ..., close_reason: _Optional[str] = ..., error_count: _Optional[int] = ..., heartbeat_latency: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., connect_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., state_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., disconnect_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., lease_expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., lease_ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
