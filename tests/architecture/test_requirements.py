"""docs/requirements.md names every requirement and the tests that prove it."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "requirements.md"
IDS = [f"AC-{number:03d}" for number in range(1, 16)] + [
    "BDD-001",
    "BDD-007",
    "R-HEALTH",
    "R-DOC",
]
ROW = re.compile(r"^\| (?P<id>[A-Z]+-\w+) \| (?P<what>.+) \| (?P<proof>.+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> dict[str, str]:
    return {match["id"]: match["proof"] for match in ROW.finditer(PAGE.read_text())}


@functools.cache
def marked() -> dict[tuple[str, str], set[str]]:
    """Each test that is marked with requirements, and with which."""
    found: dict[tuple[str, str], set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            ids = {
                argument.value
                for decorator in node.decorator_list
                if isinstance(decorator, ast.Call)
                and isinstance(decorator.func, ast.Attribute)
                and decorator.func.attr == "requirement"
                for argument in decorator.args
                if isinstance(argument, ast.Constant)
            }
            if ids:
                key = (path.relative_to(ROOT).as_posix(), node.name)
                found[key] = {str(identifier) for identifier in ids}
    return found


@pytest.mark.requirement("R-DOC")
def test_every_requirement_has_a_row() -> None:
    assert list(rows()) == IDS


@pytest.mark.requirement("R-DOC")
@pytest.mark.parametrize("identifier", IDS)
def test_a_requirement_names_tests_that_exist_and_claim_it(identifier: str) -> None:
    proof = rows()[identifier]
    claims = marked()
    named = {(path, name) for path, name in TEST.findall(proof)}
    claiming = {key for key, ids in claims.items() if identifier in ids}
    assert named, f"{identifier} names no test"
    assert named <= claiming, f"{named - claiming} do not exist, or do not claim {identifier}"


def test_no_test_claims_an_unknown_requirement() -> None:
    assert set().union(*marked().values()) <= set(IDS)
