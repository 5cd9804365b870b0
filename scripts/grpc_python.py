"""A protoc plugin that makes Python's gRPC stubs: grpcio-tools has that generator built in, where
buf cannot reach it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from google.protobuf.compiler import plugin_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc


def main() -> int:
    """Answer one request of protoc, from stdin to stdout; returns the exit code."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    # A file without a service would get an empty companion that nobody imports.
    wanted = {file.name for file in request.proto_file if file.service} & set(
        request.file_to_generate
    )
    with tempfile.TemporaryDirectory() as directory:
        described = Path(directory, "protos.bin")
        described.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        code = protoc.main(
            [
                "protoc",
                f"--descriptor_set_in={described}",
                f"--grpc_python_out={directory}",
                *sorted(wanted),
            ]
        )
        for path in sorted(Path(directory).rglob("*_pb2_grpc.py")):
            response.file.add(name=str(path.relative_to(directory)), content=path.read_text())
    sys.stdout.buffer.write(response.SerializeToString())
    return code


if __name__ == "__main__":
    sys.exit(main())
