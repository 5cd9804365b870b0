"""Make the committed stubs of each language from proto/, or check that they are current.

buf.gen.yaml says which plugin makes what. The plugins come from the registries of their languages,
in fixed versions, into .tools (TypeScript's: into its node_modules). A language whose toolchain is
not here is left out, and said; with CI=true that is an error.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
TOOLS: Final = ROOT / ".tools"
TEMPLATE: Final = ROOT / "buf.gen.yaml"


@dataclass(frozen=True, kw_only=True)
class Language:
    """Where the stubs of a language are, and what makes them.

    Args:
        stubs: which files below ``clients/`` are generated, as glob patterns.
        toolchain: the command that must be here.
        install: the commands that install the plugins, from the project's root.
    """

    stubs: Sequence[str]
    toolchain: str
    install: Sequence[str]


LANGUAGES: Final[Mapping[str, Language]] = {
    "python": Language(
        stubs=["python/ibgateway/**/*_pb2*.py", "python/ibgateway/**/*_pb2*.pyi"],
        toolchain=sys.executable,
        install=[],  # the Makefile has, into .venv-proto
    ),
    "typescript": Language(
        stubs=["typescript/src/gen/**/*.ts"],
        toolchain="npm",
        install=["npm --prefix clients/typescript ci"],
    ),
    "go": Language(
        stubs=["go/**/*.pb.go"],
        toolchain="go",
        install=[
            "go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
            "go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
        ],
    ),
    "rust": Language(
        stubs=["rust/src/gen/**/*.rs"],
        toolchain="cargo",
        install=[
            "cargo install --quiet --locked --root .tools protoc-gen-prost@0.5.0",
            "cargo install --quiet --locked --root .tools protoc-gen-tonic@0.5.0",
        ],
    ),
}


def plugins(names: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of buf.gen.yaml that are for these languages."""
    entries = yaml.safe_load(TEMPLATE.read_text())["plugins"]
    return [plugin for plugin in entries if language_of(plugin) in names]


def language_of(plugin: Mapping[str, Any]) -> str:
    """The language that an entry of buf.gen.yaml is for."""
    return Path(plugin["out"]).parts[1]


def install(name: str) -> None:
    """Install the plugins of a language, unless they are here in these versions."""
    language = LANGUAGES[name]
    commands = json.dumps(language.install).encode()
    lock = ROOT / "clients" / name / "package-lock.json"
    if lock.exists():
        commands += lock.read_bytes()
    stamp = TOOLS / f"{name}.{hashlib.sha256(commands).hexdigest()[:16]}"
    local = [plugin["local"] for plugin in plugins([name]) if isinstance(plugin.get("local"), str)]
    if stamp.exists() and all((ROOT / path).exists() for path in local):
        return
    TOOLS.mkdir(exist_ok=True)
    for command in language.install:
        subprocess.run(  # nosec B603 # the table above
            command.split(), cwd=ROOT, env=os.environ | {"GOBIN": str(TOOLS / "bin")}, check=True
        )
    stamp.touch()


def generate(names: Sequence[str], target: Path) -> None:
    """Write the stubs of these languages below ``target``, as they lie below the root."""
    template = {"version": "v2", "plugins": plugins(names)}
    buf = Path(sys.executable).with_name("buf")
    subprocess.run(  # nosec B603 # a locked tool
        [buf, "generate", "--template", json.dumps(template), "--output", target],
        cwd=ROOT,
        check=True,
    )
    # Files without a service get an empty companion that nobody imports.
    for path in target.glob("clients/python/**/*_pb2_grpc.pyi"):
        if not path.with_suffix(".py").exists():
            path.unlink()


def stubs(name: str, root: Path) -> set[Path]:
    """The generated files of a language, relative to a root."""
    clients = root / "clients"
    ours = {path for pattern in LANGUAGES[name].stubs for path in clients.glob(pattern)}
    return {path.relative_to(root) for path in ours}


def stale(names: Sequence[str]) -> list[str]:
    """The committed stubs that differ from what proto/ gives."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(names, fresh)
        return sorted(
            str(path)
            for name in names
            for path in stubs(name, fresh) | stubs(name, ROOT)
            if not (fresh / path).exists()
            or not (ROOT / path).exists()
            or not filecmp.cmp(fresh / path, ROOT / path, shallow=False)
        )


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a stub is stale")
    parser.add_argument(
        "languages", nargs="*", metavar="LANGUAGE", help=f"of {', '.join(LANGUAGES)}; all if none"
    )
    given = parser.parse_args()
    names = []
    for name in given.languages or LANGUAGES:
        if name not in LANGUAGES:
            parser.error(f"{name}: there are stubs of {', '.join(LANGUAGES)}")
        if shutil.which(LANGUAGES[name].toolchain):
            names.append(name)
            continue
        sys.stderr.write(f"{name}: left out, since {LANGUAGES[name].toolchain} is not here\n")
        if os.environ.get("CI") == "true":
            return 1
    for name in names:
        install(name)
    if given.check:
        found = stale(names)
        if found:
            sys.stderr.write(f"stale stubs (run `make proto`): {', '.join(found)}\n")
        return 1 if found else 0
    for name in names:
        for path in stubs(name, ROOT):
            (ROOT / path).unlink()
    generate(names, ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
