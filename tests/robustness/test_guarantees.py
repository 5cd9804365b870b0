"""Each guarantee finds what breaks it, and nothing in what does not."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.robustness.checker import check, report
from tests.robustness.history import History
from tests.robustness.synthetic import position_mutations, record_mutations
from tests.robustness.synthetic.mutations import MUTATIONS, Mutation, NotHereError
from tests.robustness.synthetic.told import clean
from tests.robustness.verdict import GUARANTEES

MODULES = (position_mutations, record_mutations)
"""Where more of them are written."""
TRIES = 200
"""Histories in which a place for a mutation is looked for."""

seeds = st.integers(min_value=0, max_value=2**32)


@settings(max_examples=25)
@given(seed=seeds)
def test_a_clean_history_breaks_nothing(seed: int) -> None:
    violations = check(clean(seed))
    assert not violations, report(violations)


def broken(mutation: Mutation, seed: int) -> History:
    """A history that is broken in one place."""
    for more in range(TRIES):
        history = clean(seed + more)
        try:
            mutation.change(history, random.Random(seed))
        except NotHereError:
            continue
        return history
    assume(False)
    raise AssertionError


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
@settings(max_examples=2)
@given(seed=seeds)
def test_what_is_broken_is_found_and_named_right(mutation: Mutation, seed: int) -> None:
    violations = check(broken(mutation, seed))
    found = {violation.guarantee for violation in violations}
    assert mutation.breaks in found, f"not found; but {report(violations)}"
    if mutation.also is not None:
        assert found <= {mutation.breaks, *mutation.also}, report(violations)


def test_every_guarantee_has_a_mutation_that_breaks_it() -> None:
    assert {mutation.breaks for mutation in MUTATIONS} == set(GUARANTEES)


@pytest.mark.parametrize("name", GUARANTEES)
def test_every_guarantee_is_stated(name: str) -> None:
    assert GUARANTEES[name].__doc__
