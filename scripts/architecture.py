"""The page of the architecture: layers from pyproject.toml, imports and purposes from the code."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
_PACKAGE: Final = ROOT / "broker"


def architecture(notice: str) -> str:
    """The layers as a diagram, who imports whom, and what each module is for."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = _layers(contracts["contracts"])
    edges = _edges()
    rules = "\n".join(f"- {contract['name']}." for contract in contracts["contracts"])
    return f"""# Architecture
{notice}

The broker is one process with one event loop. Imports run from the edge (top) to the core
(bottom), never back; `make check` fails otherwise. The diagram has the packages of `broker/` in
their layers, and the imports between them, as far as the second layer below. Calls run the same
way; facts come back as events ([explanation.md](explanation.md)).

```mermaid
flowchart TB
{_diagram(layers, edges)}
```

`broker.simulator`, the simulated Gateway, stands beside all of it: it imports nothing of the
broker, and of the broker only the command line (`cli`) imports it.

The rules, as import-linter holds them:

{rules}

## What each module is for

{_modules()}
"""


def _layers(contracts: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    [contract] = [item for item in contracts if item["type"] == "layers"]
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def _diagram(layers: Sequence[Sequence[str]], edges: set[tuple[str, str]]) -> str:
    known = {name.partition(".")[2] for layer in layers for name in layer}
    lines = []
    for number, layer in enumerate(layers):
        names = " ~~~ ".join(f"{_id(name)}[{name.partition('.')[2]}]" for name in layer)
        lines.append(f'    subgraph layer{number}[" "]\n        {names}\n    end')
    place = {
        name.partition(".")[2]: number for number, layer in enumerate(layers) for name in layer
    }
    # Only to the nearest layers: an arrow from everybody to the core says nothing.
    lines += [
        f"    {_id(source)} --> {_id(target)}"
        for source, target in sorted(edges)
        if {source, target} <= known and 0 < place[target] - place[source] <= 2
    ]
    return "\n".join(lines)


def _id(name: str) -> str:
    return name.rpartition(".")[2].strip("_")


def _edges() -> set[tuple[str, str]]:
    """The imports between the packages, and the modules beside them, of the broker."""
    found = set()
    for path in _PACKAGE.rglob("*.py"):
        source = path.relative_to(_PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("broker."):
                target = str(node.module).split(".")[1]
                if target != source:
                    found.add((source, target))
    return found


def _modules() -> str:
    packages: dict[str, list[Path]] = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            packages.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(path)
    return "\n\n".join(
        f"### {package}\n\n" + "\n".join(_rows(paths)) for package, paths in packages.items()
    )


def _rows(paths: Sequence[Path]) -> Iterator[str]:
    yield "| module | is for |"
    yield "|---|---|"
    for path in paths:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        purpose = text.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        yield f"| `{path.stem}` | {purpose} |"
