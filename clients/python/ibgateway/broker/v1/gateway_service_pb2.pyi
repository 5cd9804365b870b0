from ibgateway.broker.v1 import gateway_pb2 as _gateway_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListGatewaysRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListGatewaysResponse(_message.Message):
    __slots__ = ("gateways",)
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    gateways: _containers.RepeatedCompositeFieldContainer[_gateway_pb2.Gateway]
    def __init__(self, gateways: _Optional[_Iterable[_Union[_gateway_pb2.Gateway, _Mapping]]] = ...) -> None: ...

class GetGatewayRequest(_message.Message):
    __slots__ = ("gateway_id",)
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    def __init__(self, gateway_id: _Optional[str] = ...) -> None: ...

class GetGatewayResponse(_message.Message):
    __slots__ = ("gateway",)
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    gateway: _gateway_pb2.Gateway
    def __init__(self, gateway: _Optional[_Union[_gateway_pb2.Gateway, _Mapping]] = ...) -> None: ...

class DrainGatewayRequest(_message.Message):
    __slots__ = ("gateway_id", "reason", "close_sessions")
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CLOSE_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    reason: str
    close_sessions: bool
    def __init__(self, gateway_id: _Optional[str] = ..., reason: _Optional[str] = ..., close_sessions: bool = ...) -> None: ...

class DrainGatewayResponse(_message.Message):
    __slots__ = ("gateway",)
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    gateway: _gateway_pb2.Gateway
    def __init__(self, gateway: _Optional[_Union[_gateway_pb2.Gateway, _Mapping]] = ...) -> None: ...

class ResumeGatewayRequest(_message.Message):
    __slots__ = ("gateway_id",)
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    def __init__(self, gateway_id: _Optional[str] = ...) -> None: ...

class ResumeGatewayResponse(_message.Message):
    __slots__ = ("gateway",)
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    gateway: _gateway_pb2.Gateway
    def __init__(self, gateway: _Optional[_Union[_gateway_pb2.Gateway, _Mapping]] = ...) -> None: ...

class ResetCircuitBreakerRequest(_message.Message):
    __slots__ = ("gateway_id",)
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    def __init__(self, gateway_id: _Optional[str] = ...) -> None: ...

class ResetCircuitBreakerResponse(_message.Message):
    __slots__ = ("gateway",)
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    gateway: _gateway_pb2.Gateway
    def __init__(self, gateway: _Optional[_Union[_gateway_pb2.Gateway, _Mapping]] = ...) -> None: ...
