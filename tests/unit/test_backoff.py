"""The delays between attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.session.backoff import Backoff


@pytest.mark.requirement("AC-009")
def test_delays_double_from_one_second_to_thirty_two() -> None:
    backoff = Backoff()
    assert [backoff.delay(attempt, 0.5) for attempt in range(1, 8)] == [1, 2, 4, 8, 16, 32, 32]


@pytest.mark.requirement("AC-009")
@given(attempt=st.integers(1, 10**9), random=st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_a_fifth(attempt: int, random: float) -> None:
    backoff = Backoff()
    plain = backoff.delay(attempt, 0.5)
    assert 0.8 * plain <= backoff.delay(attempt, random) <= 1.2 * plain
