"""When somebody is told that a state lasts too long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from broker.session.budgets import Budgets, next_alarm

SINCE = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
BUDGETS = st.floats(0.001, 86400)
AGES = st.timedeltas(timedelta(days=-1), timedelta(days=3650))


def after(seconds: float) -> datetime:
    return SINCE + timedelta(seconds=seconds)


def test_alarms_come_at_one_two_four_and_eight_budgets() -> None:
    told, now = [], SINCE
    for _ in range(5):
        now = next_alarm(SINCE, 60.0, now)
        told.append((now - SINCE).total_seconds())
    assert told == [60, 120, 240, 480, 960]


def test_an_alarm_that_is_due_now_has_been_told() -> None:
    assert next_alarm(SINCE, 60.0, after(59.999999)) == after(60)
    assert next_alarm(SINCE, 60.0, after(60)) == after(120)


def test_after_a_long_absence_the_series_goes_on_where_it_is() -> None:
    assert next_alarm(SINCE, 60.0, after(1000)) == after(1920)


def test_a_clock_that_was_set_back_is_no_alarm() -> None:
    assert next_alarm(SINCE, 60.0, after(-3600)) == after(60)


def test_the_defaults_leave_a_nightly_restart_in_peace() -> None:
    assert Budgets() == Budgets(connecting=60.0, reconnecting=300.0, condition=300.0)


@given(budget=st.floats(0, 86400), age=AGES)
def test_the_next_alarm_is_always_ahead(budget: float, age: timedelta) -> None:
    assert next_alarm(SINCE, budget, SINCE + age) > SINCE + age


@given(budget=BUDGETS, age=AGES)
def test_each_alarm_comes_at_twice_the_age_of_the_one_before(budget: float, age: timedelta) -> None:
    first = next_alarm(SINCE, budget, SINCE + age)
    assert next_alarm(SINCE, budget, first) - SINCE == 2 * (first - SINCE)


@given(budget=BUDGETS, age=AGES)
def test_no_alarm_is_left_out(budget: float, age: timedelta) -> None:
    alarm = next_alarm(SINCE, budget, SINCE + age) - SINCE
    assert alarm == timedelta(seconds=budget) or alarm / 2 <= age
