from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

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
    __slots__ = ("accepts", "max_handshakes", "refused_seats", "refused_client_ids", "protocol_errors", "early_requests", "unknown_requests", "max_claims_per_client_id")
    ACCEPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_HANDSHAKES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_SEATS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_ERRORS_FIELD_NUMBER: _ClassVar[int]
    EARLY_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_CLAIMS_PER_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    accepts: int
    max_handshakes: int
    refused_seats: int
    refused_client_ids: int
    protocol_errors: int
    early_requests: int
    unknown_requests: int
    max_claims_per_client_id: int
    def __init__(self, accepts: _Optional[int] = ..., max_handshakes: _Optional[int] = ..., refused_seats: _Optional[int] = ..., refused_client_ids: _Optional[int] = ..., protocol_errors: _Optional[int] = ..., early_requests: _Optional[int] = ..., unknown_requests: _Optional[int] = ..., max_claims_per_client_id: _Optional[int] = ...) -> None: ...

class GetSimulatorRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSimulatorResponse(_message.Message):
    __slots__ = ("host", "port", "listening", "muted", "server_version", "accounts", "faults", "armed", "held_client_ids", "statistics")
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
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ..., listening: bool = ..., muted: bool = ..., server_version: _Optional[int] = ..., accounts: _Optional[_Iterable[str]] = ..., faults: _Optional[_Iterable[_Union[Fault, _Mapping]]] = ..., armed: _Optional[_Iterable[_Union[ArmedFault, _Mapping]]] = ..., held_client_ids: _Optional[_Iterable[int]] = ..., statistics: _Optional[_Union[Statistics, _Mapping]] = ...) -> None: ...

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

class DropClientsRequest(_message.Message):
    __slots__ = ("reset", "client_id")
    RESET_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    reset: bool
    client_id: int
    def __init__(self, reset: bool = ..., client_id: _Optional[int] = ...) -> None: ...

class DropClientsResponse(_message.Message):
    __slots__ = ("dropped",)
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    dropped: int
    def __init__(self, dropped: _Optional[int] = ...) -> None: ...

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

class SetMuteRequest(_message.Message):
    __slots__ = ("muted",)
    MUTED_FIELD_NUMBER: _ClassVar[int]
    muted: bool
    def __init__(self, muted: bool = ...) -> None: ...

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
