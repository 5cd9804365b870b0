from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_CODE_UNSPECIFIED: _ClassVar[ErrorCode]
    ERROR_CODE_CONNECTION: _ClassVar[ErrorCode]
    ERROR_CODE_CLIENT_ID_IN_USE: _ClassVar[ErrorCode]
    ERROR_CODE_TIMEOUT: _ClassVar[ErrorCode]
    ERROR_CODE_NETWORK_UNREACHABLE: _ClassVar[ErrorCode]
    ERROR_CODE_AUTHENTICATION: _ClassVar[ErrorCode]
    ERROR_CODE_INCOMPATIBLE_VERSION: _ClassVar[ErrorCode]

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_IB_CONN_001: _ClassVar[ErrorReason]
    ERROR_REASON_IB_CONN_002: _ClassVar[ErrorReason]
    ERROR_REASON_IB_CONN_003: _ClassVar[ErrorReason]
    ERROR_REASON_IB_CONN_004: _ClassVar[ErrorReason]
    ERROR_REASON_IB_CONN_005: _ClassVar[ErrorReason]
    ERROR_REASON_IB_CONN_006: _ClassVar[ErrorReason]
    ERROR_REASON_CIRCUIT_OPEN: _ClassVar[ErrorReason]
    ERROR_REASON_GATEWAY_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_BROKER_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_LIMIT: _ClassVar[ErrorReason]
    ERROR_REASON_CLIENT_IDS_EXHAUSTED: _ClassVar[ErrorReason]
    ERROR_REASON_SLOW_CONSUMER: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_NOT_CONNECTED: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_CLOSED: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_ID_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_GATEWAY_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_ARGUMENT: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
ERROR_CODE_UNSPECIFIED: ErrorCode
ERROR_CODE_CONNECTION: ErrorCode
ERROR_CODE_CLIENT_ID_IN_USE: ErrorCode
ERROR_CODE_TIMEOUT: ErrorCode
ERROR_CODE_NETWORK_UNREACHABLE: ErrorCode
ERROR_CODE_AUTHENTICATION: ErrorCode
ERROR_CODE_INCOMPATIBLE_VERSION: ErrorCode
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_IB_CONN_001: ErrorReason
ERROR_REASON_IB_CONN_002: ErrorReason
ERROR_REASON_IB_CONN_003: ErrorReason
ERROR_REASON_IB_CONN_004: ErrorReason
ERROR_REASON_IB_CONN_005: ErrorReason
ERROR_REASON_IB_CONN_006: ErrorReason
ERROR_REASON_CIRCUIT_OPEN: ErrorReason
ERROR_REASON_GATEWAY_DRAINING: ErrorReason
ERROR_REASON_BROKER_DRAINING: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_SESSION_LIMIT: ErrorReason
ERROR_REASON_CLIENT_IDS_EXHAUSTED: ErrorReason
ERROR_REASON_SLOW_CONSUMER: ErrorReason
ERROR_REASON_SESSION_NOT_CONNECTED: ErrorReason
ERROR_REASON_SESSION_CLOSED: ErrorReason
ERROR_REASON_REQUEST_ID_REUSED: ErrorReason
ERROR_REASON_SESSION_NOT_FOUND: ErrorReason
ERROR_REASON_GATEWAY_NOT_FOUND: ErrorReason
ERROR_REASON_INVALID_ARGUMENT: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason

class ConnectionFailure(_message.Message):
    __slots__ = ("code", "reason", "retryable", "phase", "tws_code", "message", "hint", "attempt", "time")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    TWS_CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    code: ErrorCode
    reason: str
    retryable: bool
    phase: str
    tws_code: int
    message: str
    hint: str
    attempt: int
    time: _timestamp_pb2.Timestamp
    def __init__(self, code: _Optional[_Union[ErrorCode, str]] = ..., reason: _Optional[str] = ..., retryable: bool = ..., phase: _Optional[str] = ..., tws_code: _Optional[int] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ..., attempt: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
