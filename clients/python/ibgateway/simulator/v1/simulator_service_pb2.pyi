from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScriptState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCRIPT_STATE_UNSPECIFIED: _ClassVar[ScriptState]
    SCRIPT_STATE_RUNNING: _ClassVar[ScriptState]
    SCRIPT_STATE_FINISHED: _ClassVar[ScriptState]
    SCRIPT_STATE_STOPPED: _ClassVar[ScriptState]
    SCRIPT_STATE_FAILED: _ClassVar[ScriptState]
SCRIPT_STATE_UNSPECIFIED: ScriptState
SCRIPT_STATE_RUNNING: ScriptState
SCRIPT_STATE_FINISHED: ScriptState
SCRIPT_STATE_STOPPED: ScriptState
SCRIPT_STATE_FAILED: ScriptState

class Fault(_message.Message):
    __slots__ = ("name", "description")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class ArmedFault(_message.Message):
    __slots__ = ("name", "remaining")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    name: str
    remaining: int
    def __init__(self, name: _Optional[str] = ..., remaining: _Optional[int] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("code", "text")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    code: int
    text: str
    def __init__(self, code: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class Script(_message.Message):
    __slots__ = ("name", "state", "step", "failure")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: ScriptState
    step: str
    failure: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[ScriptState, str]] = ..., step: _Optional[str] = ..., failure: _Optional[str] = ...) -> None: ...

class Settings(_message.Message):
    __slots__ = ("rate_limit", "rate_violations", "read_only", "read_only_id", "hold_after_fin", "hold_after_reset", "hold_after_loss")
    RATE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RATE_VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_AFTER_FIN_FIELD_NUMBER: _ClassVar[int]
    HOLD_AFTER_RESET_FIELD_NUMBER: _ClassVar[int]
    HOLD_AFTER_LOSS_FIELD_NUMBER: _ClassVar[int]
    rate_limit: int
    rate_violations: int
    read_only: bool
    read_only_id: int
    hold_after_fin: _duration_pb2.Duration
    hold_after_reset: _duration_pb2.Duration
    hold_after_loss: _duration_pb2.Duration
    def __init__(self, rate_limit: _Optional[int] = ..., rate_violations: _Optional[int] = ..., read_only: bool = ..., read_only_id: _Optional[int] = ..., hold_after_fin: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., hold_after_reset: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., hold_after_loss: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Client(_message.Message):
    __slots__ = ("number", "peer", "client_id", "ready", "fault")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    number: int
    peer: str
    client_id: int
    ready: bool
    fault: str
    def __init__(self, number: _Optional[int] = ..., peer: _Optional[str] = ..., client_id: _Optional[int] = ..., ready: bool = ..., fault: _Optional[str] = ...) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("accepts", "max_handshakes", "refused_seats", "refused_client_ids", "protocol_errors", "early_requests", "unknown_requests", "max_claims_per_client_id", "rejected_by_rate")
    ACCEPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_HANDSHAKES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_SEATS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_ERRORS_FIELD_NUMBER: _ClassVar[int]
    EARLY_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_CLAIMS_PER_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    REJECTED_BY_RATE_FIELD_NUMBER: _ClassVar[int]
    accepts: int
    max_handshakes: int
    refused_seats: int
    refused_client_ids: int
    protocol_errors: int
    early_requests: int
    unknown_requests: int
    max_claims_per_client_id: int
    rejected_by_rate: int
    def __init__(self, accepts: _Optional[int] = ..., max_handshakes: _Optional[int] = ..., refused_seats: _Optional[int] = ..., refused_client_ids: _Optional[int] = ..., protocol_errors: _Optional[int] = ..., early_requests: _Optional[int] = ..., unknown_requests: _Optional[int] = ..., max_claims_per_client_id: _Optional[int] = ..., rejected_by_rate: _Optional[int] = ...) -> None: ...

class GetSimulatorRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSimulatorResponse(_message.Message):
    __slots__ = ("host", "port", "listening", "muted", "server_version", "accounts", "faults", "armed", "held_client_ids", "statistics", "muted_client_ids", "upstream_lost", "startup_notices", "scripts", "settings")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    LISTENING_FIELD_NUMBER: _ClassVar[int]
    MUTED_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    ARMED_FIELD_NUMBER: _ClassVar[int]
    HELD_CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    MUTED_CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_LOST_FIELD_NUMBER: _ClassVar[int]
    STARTUP_NOTICES_FIELD_NUMBER: _ClassVar[int]
    SCRIPTS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    listening: bool
    muted: bool
    server_version: int
    accounts: _containers.RepeatedScalarFieldContainer[str]
    faults: _containers.RepeatedCompositeFieldContainer[Fault]
    armed: _containers.RepeatedCompositeFieldContainer[ArmedFault]
    held_client_ids: _containers.RepeatedScalarFieldContainer[int]
    statistics: Statistics
    muted_client_ids: _containers.RepeatedScalarFieldContainer[int]
    upstream_lost: bool
    startup_notices: _containers.RepeatedCompositeFieldContainer[Notice]
    scripts: _containers.RepeatedCompositeFieldContainer[Script]
    settings: Settings
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ..., listening: bool = ..., muted: bool = ..., server_version: _Optional[int] = ..., accounts: _Optional[_Iterable[str]] = ..., faults: _Optional[_Iterable[_Union[Fault, _Mapping]]] = ..., armed: _Optional[_Iterable[_Union[ArmedFault, _Mapping]]] = ..., held_client_ids: _Optional[_Iterable[int]] = ..., statistics: _Optional[_Union[Statistics, _Mapping]] = ..., muted_client_ids: _Optional[_Iterable[int]] = ..., upstream_lost: bool = ..., startup_notices: _Optional[_Iterable[_Union[Notice, _Mapping]]] = ..., scripts: _Optional[_Iterable[_Union[Script, _Mapping]]] = ..., settings: _Optional[_Union[Settings, _Mapping]] = ...) -> None: ...

class ListClientsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListClientsResponse(_message.Message):
    __slots__ = ("clients",)
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    clients: _containers.RepeatedCompositeFieldContainer[Client]
    def __init__(self, clients: _Optional[_Iterable[_Union[Client, _Mapping]]] = ...) -> None: ...

class ArmFaultRequest(_message.Message):
    __slots__ = ("fault", "times")
    FAULT_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    fault: str
    times: int
    def __init__(self, fault: _Optional[str] = ..., times: _Optional[int] = ...) -> None: ...

class ArmFaultResponse(_message.Message):
    __slots__ = ("armed",)
    ARMED_FIELD_NUMBER: _ClassVar[int]
    armed: _containers.RepeatedCompositeFieldContainer[ArmedFault]
    def __init__(self, armed: _Optional[_Iterable[_Union[ArmedFault, _Mapping]]] = ...) -> None: ...

class ClearFaultsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClearFaultsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConfigureRequest(_message.Message):
    __slots__ = ("rate_limit", "rate_violations", "read_only", "read_only_id", "hold_after_fin", "hold_after_reset", "hold_after_loss")
    RATE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RATE_VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_AFTER_FIN_FIELD_NUMBER: _ClassVar[int]
    HOLD_AFTER_RESET_FIELD_NUMBER: _ClassVar[int]
    HOLD_AFTER_LOSS_FIELD_NUMBER: _ClassVar[int]
    rate_limit: int
    rate_violations: int
    read_only: bool
    read_only_id: int
    hold_after_fin: _duration_pb2.Duration
    hold_after_reset: _duration_pb2.Duration
    hold_after_loss: _duration_pb2.Duration
    def __init__(self, rate_limit: _Optional[int] = ..., rate_violations: _Optional[int] = ..., read_only: bool = ..., read_only_id: _Optional[int] = ..., hold_after_fin: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., hold_after_reset: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., hold_after_loss: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ConfigureResponse(_message.Message):
    __slots__ = ("settings",)
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    settings: Settings
    def __init__(self, settings: _Optional[_Union[Settings, _Mapping]] = ...) -> None: ...

class DropClientsRequest(_message.Message):
    __slots__ = ("reset", "client_id", "mid_message")
    RESET_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    MID_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reset: bool
    client_id: int
    mid_message: bool
    def __init__(self, reset: bool = ..., client_id: _Optional[int] = ..., mid_message: bool = ...) -> None: ...

class DropClientsResponse(_message.Message):
    __slots__ = ("dropped",)
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    dropped: int
    def __init__(self, dropped: _Optional[int] = ...) -> None: ...

class ResetPortRequest(_message.Message):
    __slots__ = ("new_port",)
    NEW_PORT_FIELD_NUMBER: _ClassVar[int]
    new_port: int
    def __init__(self, new_port: _Optional[int] = ...) -> None: ...

class ResetPortResponse(_message.Message):
    __slots__ = ("told",)
    TOLD_FIELD_NUMBER: _ClassVar[int]
    told: int
    def __init__(self, told: _Optional[int] = ...) -> None: ...

class SendNoticeRequest(_message.Message):
    __slots__ = ("code", "text", "client_id", "request_id")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    code: int
    text: str
    client_id: int
    request_id: int
    def __init__(self, code: _Optional[int] = ..., text: _Optional[str] = ..., client_id: _Optional[int] = ..., request_id: _Optional[int] = ...) -> None: ...

class SendNoticeResponse(_message.Message):
    __slots__ = ("sent",)
    SENT_FIELD_NUMBER: _ClassVar[int]
    sent: int
    def __init__(self, sent: _Optional[int] = ...) -> None: ...

class StartStormRequest(_message.Message):
    __slots__ = ("codes", "count", "interval", "client_id", "request_id")
    CODES_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    codes: _containers.RepeatedScalarFieldContainer[int]
    count: int
    interval: _duration_pb2.Duration
    client_id: int
    request_id: int
    def __init__(self, codes: _Optional[_Iterable[int]] = ..., count: _Optional[int] = ..., interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., client_id: _Optional[int] = ..., request_id: _Optional[int] = ...) -> None: ...

class StartStormResponse(_message.Message):
    __slots__ = ("script",)
    SCRIPT_FIELD_NUMBER: _ClassVar[int]
    script: Script
    def __init__(self, script: _Optional[_Union[Script, _Mapping]] = ...) -> None: ...

class StartRestartRequest(_message.Message):
    __slots__ = ("notices", "notice_interval", "fin", "down", "first_fault", "first_connections", "first_duration", "ghosts", "next_order_id")
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    NOTICE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    FIN_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    FIRST_FAULT_FIELD_NUMBER: _ClassVar[int]
    FIRST_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    FIRST_DURATION_FIELD_NUMBER: _ClassVar[int]
    GHOSTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    notices: int
    notice_interval: _duration_pb2.Duration
    fin: bool
    down: _duration_pb2.Duration
    first_fault: str
    first_connections: int
    first_duration: _duration_pb2.Duration
    ghosts: _duration_pb2.Duration
    next_order_id: int
    def __init__(self, notices: _Optional[int] = ..., notice_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., fin: bool = ..., down: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., first_fault: _Optional[str] = ..., first_connections: _Optional[int] = ..., first_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., ghosts: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., next_order_id: _Optional[int] = ...) -> None: ...

class StartRestartResponse(_message.Message):
    __slots__ = ("script",)
    SCRIPT_FIELD_NUMBER: _ClassVar[int]
    script: Script
    def __init__(self, script: _Optional[_Union[Script, _Mapping]] = ...) -> None: ...

class StopScriptRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StopScriptResponse(_message.Message):
    __slots__ = ("stopped",)
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    stopped: bool
    def __init__(self, stopped: bool = ...) -> None: ...

class HoldClientIdRequest(_message.Message):
    __slots__ = ("client_id", "duration")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    client_id: int
    duration: _duration_pb2.Duration
    def __init__(self, client_id: _Optional[int] = ..., duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class HoldClientIdResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetMuteRequest(_message.Message):
    __slots__ = ("muted", "client_id")
    MUTED_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    muted: bool
    client_id: int
    def __init__(self, muted: bool = ..., client_id: _Optional[int] = ...) -> None: ...

class SetMuteResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetListeningRequest(_message.Message):
    __slots__ = ("listening",)
    LISTENING_FIELD_NUMBER: _ClassVar[int]
    listening: bool
    def __init__(self, listening: bool = ...) -> None: ...

class SetListeningResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
