"""Make the committed gRPC stubs from proto/, or check that they are current.

They are made with the oldest grpcio-tools that we support, in a virtual environment of
its own: generated code refuses runtimes that are older than its generator.
"""

from __future__ import annotations

import argparse
import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "clients" / "python"
TOOLS = ROOT / ".venv-proto" / "bin"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def generate(target: Path) -> None:
    """Write the stubs of every proto below ``target``."""
    protos = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto").rglob("*.proto"))
    out = {"python": target, "pyi": target, "grpc_python": target, "mypy_grpc": f"quiet:{target}"}
    subprocess.run(  # nosec B603 # a locked tool
        [
            TOOLS / "python",
            *("-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}"),
            f"--plugin=protoc-gen-mypy_grpc={TOOLS / 'protoc-gen-mypy_grpc'}",
            *(f"--{plugin}_out={where}" for plugin, where in out.items()),
            *map(str, protos),
        ],
        check=True,
    )
    # Files without a service get an empty companion that nobody imports.
    for path in target.rglob("*_pb2_grpc.py*"):
        if not path.name.partition("_pb2")[0].endswith("_service"):
            path.unlink()


def stubs(root: Path) -> set[Path]:
    """The generated files below a directory, relative to it."""
    return {path.relative_to(root) for path in root.rglob("*_pb2*") if path.name.endswith(SUFFIXES)}


def stale() -> list[str]:
    """The committed stubs that differ from what proto/ gives."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        return sorted(
            str(path)
            for path in stubs(fresh) | stubs(TARGET)
            if not (fresh / path).exists()
            or not (TARGET / path).exists()
            or not filecmp.cmp(fresh / path, TARGET / path, shallow=False)
        )


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a stub is stale")
    if parser.parse_args().check:
        names = stale()
        if names:
            sys.stderr.write(f"stale stubs (run `make proto`): {', '.join(names)}\n")
        return 1 if names else 0
    for path in stubs(TARGET):
        (TARGET / path).unlink()
    generate(TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
