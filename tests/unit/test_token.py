"""Resume tokens."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import InvalidArgumentError
from broker.events.token import ResumeToken


@given(store_id=st.uuids(), revision=st.integers(0, 2**63 - 1))
def test_a_token_survives_the_way_to_the_client_and_back(
    store_id: uuid.UUID, revision: int
) -> None:
    token = ResumeToken(store_id, revision)
    assert ResumeToken.decode(token.encode()) == token


@given(text=st.text(max_size=31) | st.text(min_size=34, max_size=64))
def test_whatever_else_is_sent_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        ResumeToken.decode(text)
    assert caught.value.violations[0][0] == "resume_token"


@pytest.mark.parametrize("text", ["", "A", "ü" * 32, "A" * 33, " " * 32])
def test_damaged_tokens_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        ResumeToken.decode(text)
