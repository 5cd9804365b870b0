"""The statements are named, explained, and all used."""

import re
from pathlib import Path

import pytest

from broker.store import postgres
from broker.store.queries import QUERIES, parse


def test_the_operations_of_the_record_have_statements_of_their_names() -> None:
    assert {
        "create_connection",
        "update_connection",
        "get_connection",
        "list_active_connections",
        "cleanup_stale_connections",
    } <= set(QUERIES)


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_a_statement_begins_with_a_comment_and_is_one_statement(name: str) -> None:
    comment, *_ = QUERIES[name].splitlines()
    assert comment.startswith("-- ")
    code = re.sub(r"--.*", "", QUERIES[name])
    assert ";" not in code


def sources() -> str:
    """All code that may send a statement."""
    return "".join(path.read_text() for path in Path(postgres.__file__).parent.glob("*.py"))


def test_every_statement_is_used() -> None:
    source = sources()
    assert {name for name in QUERIES if f'"{name}"' not in source} == set()


@pytest.mark.requirement("AC-015")
def test_no_statement_is_built_from_input() -> None:
    source = sources()
    assert not re.search(r"\b(SELECT|INSERT|UPDATE|DELETE) .* (FROM|INTO|SET)\b", source)
    assert not any(mark in query for query in QUERIES.values() for mark in ("{", "%s", "%("))


def test_a_name_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse("-- name: a\nSELECT 1\n-- name: a\nSELECT 2")


def test_a_statement_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no name"):
        parse("SELECT 1;\n-- name: a\nSELECT 2")
