from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ibgateway.broker.v1 import error_pb2 as _error_pb2
from ibgateway.broker.v1 import session_pb2 as _session_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Transition(_message.Message):
    __slots__ = ("to", "reason")
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    to: _session_pb2.SessionState
    reason: str
    def __init__(self, to: _Optional[_Union[_session_pb2.SessionState, str]] = ..., reason: _Optional[str] = ..., **kwargs) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("number", "failure", "next_attempt_time")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    NEXT_ATTEMPT_TIME_FIELD_NUMBER: _ClassVar[int]
    number: int
    failure: _error_pb2.ConnectionFailure
    next_attempt_time: _timestamp_pb2.Timestamp
    def __init__(self, number: _Optional[int] = ..., failure: _Optional[_Union[_error_pb2.ConnectionFailure, _Mapping]] = ..., next_attempt_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("reason", "subject", "message", "hint", "since_time")
    REASON_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_FIELD_NUMBER: _ClassVar[int]
    reason: str
    subject: str
    message: str
    hint: str
    since_time: _timestamp_pb2.Timestamp
    def __init__(self, reason: _Optional[str] = ..., subject: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ..., since_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Update(_message.Message):
    __slots__ = ("fields", "actor")
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.RepeatedScalarFieldContainer[str]
    actor: str
    def __init__(self, fields: _Optional[_Iterable[str]] = ..., actor: _Optional[str] = ...) -> None: ...

class SessionEvent(_message.Message):
    __slots__ = ("revision", "sequence", "session_id", "time", "correlation_id", "persisted", "session", "transition", "attempt", "condition", "notice", "updated")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    PERSISTED_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TRANSITION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    revision: int
    sequence: int
    session_id: str
    time: _timestamp_pb2.Timestamp
    correlation_id: str
    persisted: bool
    session: _session_pb2.Session
    transition: Transition
    attempt: Attempt
    condition: _session_pb2.Condition
    notice: Notice
    updated: Update
    def __init__(self, revision: _Optional[int] = ..., sequence: _Optional[int] = ..., session_id: _Optional[str] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., correlation_id: _Optional[str] = ..., persisted: bool = ..., session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ..., transition: _Optional[_Union[Transition, _Mapping]] = ..., attempt: _Optional[_Union[Attempt, _Mapping]] = ..., condition: _Optional[_Union[_session_pb2.Condition, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., updated: _Optional[_Union[Update, _Mapping]] = ...) -> None: ...
