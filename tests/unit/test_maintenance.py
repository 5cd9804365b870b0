"""When a gateway is expected to lose its link."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.gateway.maintenance import EXAMPLE, Calendar, parse, windows

NIGHTLY = "23:45-00:45 America/New_York"
WEEKEND = "Fri 23:00-03:00 America/New_York"


def at(text: str, zone: str = "America/New_York") -> datetime:
    """A moment by the clocks of a place, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def utc(text: str) -> datetime:
    return at(text, "UTC")


def test_a_window_crosses_midnight() -> None:
    calendar = Calendar.of([NIGHTLY])
    end = at("2026-06-10 00:45")
    assert calendar.until(at("2026-06-09 23:44:59")) is None
    assert calendar.until(at("2026-06-09 23:45")) == end
    assert calendar.until(at("2026-06-10 00:44:59")) == end
    assert calendar.until(at("2026-06-10 00:45")) is None


def test_the_next_window_begins_after_now_and_after_the_one_that_is() -> None:
    calendar = Calendar.of([NIGHTLY])
    assert calendar.next(at("2026-06-09 12:00")) == at("2026-06-09 23:45")
    assert calendar.next(at("2026-06-09 23:45")) == at("2026-06-10 23:45")
    assert calendar.next(at("2026-06-10 00:45")) == at("2026-06-10 23:45")


def test_a_day_is_that_of_the_begin() -> None:
    calendar = Calendar.of([WEEKEND])
    assert calendar.until(at("2026-06-13 02:59")) == at("2026-06-13 03:00"), "Saturday morning"
    assert calendar.until(at("2026-06-12 02:59")) is None, "Friday morning"
    assert calendar.next(at("2026-06-13 03:00")) == at("2026-06-19 23:00"), "a week later"


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("", {0, 1, 2, 3, 4, 5, 6}),
        ("Fri ", {4}),
        ("Mon-Fri ", {0, 1, 2, 3, 4}),
        ("sat-THU ", {5, 6, 0, 1, 2, 3}),
        ("Sun-Mon ", {6, 0}),
        ("Wed-Wed ", {2}),
        ("Tue-Mon ", {0, 1, 2, 3, 4, 5, 6}),
    ],
)
def test_days_are_one_or_a_range_that_may_wrap_the_week(text: str, days: set[int]) -> None:
    assert parse(f"{text}23:45-00:45 UTC").days == days


def test_a_range_that_wraps_the_week_leaves_its_day_out() -> None:
    calendar = Calendar.of(["Sat-Thu 23:45-00:45 America/New_York"])
    inside = [calendar.until(at(f"2026-06-{day:02} 23:50")) is not None for day in range(8, 15)]
    assert inside == [True, True, True, True, False, True, True], "from Monday; not on Friday"


def test_in_spring_and_in_autumn_a_window_keeps_to_the_clocks_of_its_place() -> None:
    calendar = Calendar.of([NIGHTLY])
    assert calendar.next(utc("2026-03-07 12:00")) == utc("2026-03-08 04:45")
    assert calendar.next(utc("2026-03-08 12:00")) == utc("2026-03-09 03:45"), "summer time"
    assert calendar.next(utc("2026-10-31 12:00")) == utc("2026-11-01 03:45")
    assert calendar.next(utc("2026-11-01 12:00")) == utc("2026-11-02 04:45"), "winter time"


def test_a_window_over_the_hour_that_spring_leaves_out_is_shorter_by_it() -> None:
    calendar = Calendar.of(["01:30-03:30 America/New_York"])
    begin = utc("2026-03-08 06:30")
    assert calendar.next(utc("2026-03-08 00:00")) == begin
    assert calendar.until(begin) == utc("2026-03-08 07:30")


@pytest.mark.parametrize("text", ["02:15-02:45", "02:30-03:00", "01:45-02:15"])
def test_a_window_in_the_hour_that_spring_leaves_out_is_there_all_the_same(text: str) -> None:
    calendar = Calendar.of([f"{text} America/New_York"])
    begin = calendar.next(utc("2026-03-08 00:00"))
    assert begin is not None
    assert begin.date() == utc("2026-03-08").date()
    end = calendar.until(begin)
    assert end is not None
    assert begin < end <= begin + timedelta(minutes=90)


def test_a_window_in_the_hour_that_autumn_repeats_covers_both() -> None:
    calendar = Calendar.of(["01:15-01:45 America/New_York"])
    begin = utc("2026-11-01 05:15")
    assert calendar.next(utc("2026-11-01 00:00")) == begin
    assert calendar.until(begin) == utc("2026-11-01 06:45")


def test_windows_that_overlap_or_adjoin_are_one() -> None:
    calendar = Calendar.of(["01:00-02:00 UTC", "01:30-03:00 UTC", "03:00-04:00 UTC"])
    assert calendar.until(utc("2026-06-10 01:10")) == utc("2026-06-10 04:00")
    assert calendar.next(utc("2026-06-10 01:10")) == utc("2026-06-11 01:00")


def test_the_end_is_the_latest_where_one_window_lies_in_another() -> None:
    calendar = Calendar.of(["01:00-05:00 UTC", "02:00-03:00 UTC"])
    assert calendar.until(utc("2026-06-10 02:30")) == utc("2026-06-10 05:00")


def test_windows_without_a_gap_are_no_excuse_for_ever() -> None:
    calendar = Calendar.of(["00:00-12:00 UTC", "12:00-00:00 UTC"])
    now = utc("2026-06-10 01:00")
    end = calendar.until(now)
    assert end is not None
    assert now + timedelta(days=7) <= end <= now + timedelta(days=8)


def test_without_windows_nothing_is_expected() -> None:
    assert Calendar().until(utc("2026-06-10 01:00")) is None
    assert Calendar().next(utc("2026-06-10 01:00")) is None


@pytest.mark.parametrize(
    ("preset", "inside", "end"),
    [
        ("ibkr-north-america", "2026-06-10 05:00", "2026-06-10 05:45"),
        ("ibkr-north-america", "2026-01-14 06:00", "2026-01-14 06:45"),
        ("ibkr-north-america", "2026-06-13 03:30", "2026-06-13 07:00"),
        ("ibkr-europe", "2026-06-10 05:00", "2026-06-10 05:45"),
        ("ibkr-europe", "2026-06-13 03:30", "2026-06-13 07:00"),
        ("ibkr-asia", "2026-06-09 21:00", "2026-06-09 22:05"),
        ("ibkr-asia", "2026-06-10 12:30", "2026-06-10 13:15"),
        ("ibkr-asia", "2026-06-13 03:30", "2026-06-13 07:00"),
    ],
)
def test_a_preset_contains_the_resets_that_ibkr_publishes(
    preset: str, inside: str, end: str
) -> None:
    calendar = Calendar.of([preset])
    assert calendar.until(utc(inside)) == utc(end)
    assert calendar.until(utc("2026-06-10 17:00")) is None, "New York trades"


def test_presets_and_windows_go_together() -> None:
    calendar = Calendar.of([" IBKR-Europe ", NIGHTLY])
    assert calendar.windows == (*windows("ibkr-europe"), parse(NIGHTLY))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be"),
        ("tonight", "must be"),
        ("23:45 America/New_York", "must be"),
        ("23:45-00:45", "must be"),
        ("Mon Fri 23:45-00:45 UTC", "must be"),
        ("24:00-00:45 UTC", "'24:00' is not a time"),
        ("23:60-00:45 UTC", "'23:60' is not a time"),
        ("23:45-1 UTC", "'1' is not a time"),
        ("23:45-0\u0660:45 UTC", "is not a time"),
        ("23:45-23:45 UTC", "same time"),
        ("Fry 23:45-00:45 UTC", "'Fry' is not a day"),
        ("Fri- 23:45-00:45 UTC", "'' is not a day"),
        ("Fri,Sat 23:45-00:45 UTC", "'Fri,Sat' is not a day"),
        ("23:45-00:45 America/Gotham", "'America/Gotham' is not a time zone"),
        ("23:45-00:45 America/Indiana", "'America/Indiana' is not a time zone"),
        ("23:45-00:45 ../UTC", "'../UTC' is not a time zone"),
        ("23:45-00:45 /etc/localtime", "is not a time zone"),
        ("23:45-00:45 ET", "'ET' is not a time zone"),
        ("23:45-00:45 EST", "'EST' is not a time zone"),
    ],
)
def test_what_is_no_window_is_refused_with_the_reason_and_an_example(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="an example is") as caught:
        parse(text)
    assert said in str(caught.value)
    assert str(caught.value).endswith(EXAMPLE)


def test_the_example_is_one() -> None:
    assert parse(EXAMPLE).days == {5, 6, 0, 1, 2, 3}


def test_an_unknown_preset_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="ibkr-north-america, ibkr-europe, ibkr-asia"):
        windows("ibkr-africa")


CLOCKS = st.times().map(lambda clock: f"{clock:%H:%M}")
ZONES = st.sampled_from(
    ["America/New_York", "Europe/Zurich", "Asia/Hong_Kong", "UTC", "Australia/Lord_Howe",
     "Asia/Beirut", "America/St_Johns", "Pacific/Apia"]
)  # fmt: skip
MOMENTS = st.datetimes(datetime(2010, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@st.composite
def texts(draw: st.DrawFn) -> str:
    begin = draw(CLOCKS)
    end = draw(CLOCKS.filter(lambda clock: clock != begin))
    day = draw(st.sampled_from(["", "Fri ", "Sat-Thu ", "Sun-Fri "]))
    return f"{day}{begin}-{end} {draw(ZONES)}"


@given(described=st.lists(texts(), min_size=1, max_size=3), now=MOMENTS)
def test_next_is_the_first_moment_that_until_knows(described: list[str], now: datetime) -> None:
    calendar = Calendar.of(described)
    end = calendar.until(now)
    base = end or now
    assert end is None or end > now
    start = calendar.next(now)
    assert start is not None
    assert base < start <= base + timedelta(days=8)
    # A calendar without a gap is cut after a week; any other is at an end where it says so.
    if base - now < timedelta(days=7) and start - base > timedelta(minutes=1):
        assert calendar.until(base) is None
        assert calendar.until(start - timedelta(seconds=1)) is None
    assert calendar.until(start) is not None
