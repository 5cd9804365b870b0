"""The hours in which a gateway is expected to lose its link. Pure: the time is given.

A window is text, as in the configuration: ``23:45-00:45 America/New_York`` is each night,
``Fri 23:00-03:00 America/New_York`` begins on Fridays, ``Sat-Thu …`` on those days. It may
cross midnight; a day names the one on which it begins. Where clocks are changed it is taken
at its widest, from the earliest reading of its begin to the latest of its end: an alarm an
hour late is better than one each spring for nothing.

Presets are the resets of IBKR's servers by its page "System Status",
https://www.interactivebrokers.com/en/software/systemStatus.php, as an undated copy of it had
them in November 2026. They change without notice (on copies of December 2024 the night was
23:45-00:45 ET), so look there; plain windows do instead of a preset. Which region serves an
account is IBKR's choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
EXAMPLE: Final = "Sat-Thu 23:45-00:45 America/New_York"
_WEEKEND: Final = "Fri 23:00-03:00 America/New_York"
PRESETS: Final[Mapping[str, tuple[str, ...]]] = {
    "ibkr-north-america": ("Sun-Fri 00:15-01:45 America/New_York", _WEEKEND),
    "ibkr-europe": ("Sun-Fri 06:25-07:45 Europe/Zurich", _WEEKEND),
    "ibkr-asia": (
        "Sun-Fri 04:45-06:05 Asia/Hong_Kong",
        "Sun-Fri 20:15-21:15 Asia/Hong_Kong",
        _WEEKEND,
    ),
}
_EVERY_DAY: Final = frozenset(range(7))
_DAY: Final = timedelta(days=1)
_WEEK: Final = timedelta(days=7)
_TEXT: Final = re.compile(
    r"(?:(?P<days>[a-z]\S*)\s+)?(?P<begin>\d\S*?)\s*-\s*(?P<end>\d\S*)\s+(?P<zone>\S+)",
    re.IGNORECASE,
)
_TIME: Final = re.compile(r"(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """Some hours of some days, by the clocks of a place.

    Args:
        days: the days on which it begins; 0 is Monday.
        begin: the time at which it begins.
        end: the time at which it ends: on the next day, unless it is after ``begin``.
        zone: where the clocks are.
    """

    days: frozenset[int]
    begin: time
    end: time
    zone: ZoneInfo

    def on(self, day: date) -> tuple[datetime, datetime] | None:
        """Its begin and end in UTC, if it begins on this day."""
        if day.weekday() not in self.days:
            return None
        last = day if self.end > self.begin else day + _DAY
        return min(self._readings(day, self.begin)), max(self._readings(last, self.end))

    def near(self, now: datetime, days: int) -> Iterator[tuple[datetime, datetime]]:
        """Its occurrences from one that may have begun yesterday on, in UTC."""
        today = now.astimezone(self.zone).date()
        for offset in range(-1, days + 1):
            occurrence = self.on(today + offset * _DAY)
            if occurrence is not None:
                yield occurrence

    def _readings(self, day: date, clock: time) -> Iterator[datetime]:
        """The moments at which clocks show this time, or would: two where they are changed."""
        for fold in (0, 1):
            yield datetime.combine(day, clock.replace(fold=fold), self.zone).astimezone(UTC)


def parse(text: str) -> Window:
    """A window from text such as ``Sat-Thu 23:45-00:45 America/New_York``.

    Raises:
        ValueError: it is none; the message says what is wrong, and shows one.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise _refused("must be [DAYS] HH:MM-HH:MM ZONE")
    begin, end = _time(match["begin"]), _time(match["end"])
    if begin == end:
        raise _refused("begins and ends at the same time")
    return Window(_days(match["days"]), begin, end, _zone(match["zone"]))


def windows(text: str) -> tuple[Window, ...]:
    """Those of a preset, or the one that the text describes.

    Raises:
        ValueError: it is neither; the message says what is wrong.
    """
    name = text.strip().lower()
    if name.startswith("ibkr") and name not in PRESETS:
        raise ValueError(f"there is no such preset; the presets are {', '.join(PRESETS)}")
    return tuple(parse(each) for each in PRESETS.get(name, (text,)))


@dataclass(frozen=True, slots=True)
class Calendar:
    """All windows of a gateway."""

    windows: tuple[Window, ...] = ()

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """The windows and presets of a configuration.

        Raises:
            ValueError: one of them is neither; the message says what is wrong.
        """
        return cls(tuple(window for text in texts for window in windows(text)))

    def until(self, now: datetime) -> datetime | None:
        """The end of the window that contains this moment, in UTC; None outside of all.

        Windows that overlap or adjoin are one. Those that leave no gap have an end a week
        ahead, so that they are no excuse for ever.
        """
        end = now
        while end - now < _WEEK:
            ends = [stop for start, stop in self._near(end, days=1) if start <= end < stop]
            if not ends:
                break
            end = max(ends)
        return end.astimezone(UTC) if end > now else None

    def next(self, now: datetime) -> datetime | None:
        """The start of the next window, in UTC; inside one, of the next after its end.

        None if there are no windows.
        """
        base = self.until(now) or now
        return min((start for start, _ in self._near(base, days=8) if start > base), default=None)

    def _near(self, now: datetime, *, days: int) -> Iterator[tuple[datetime, datetime]]:
        for window in self.windows:
            yield from window.near(now, days)


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return _EVERY_DAY
    first, dash, last = text.partition("-")
    begin = _day(first)
    return frozenset((begin + n) % 7 for n in range((_day(last) - begin) % 7 + 1 if dash else 1))


def _day(text: str) -> int:
    try:
        return DAYS.index(text.capitalize())
    except ValueError:
        raise _refused(f"{text!r} is not a day; the days are {', '.join(DAYS)}") from None


def _time(text: str) -> time:
    match = _TIME.fullmatch(text)
    if match is None:
        raise _refused(f"{text!r} is not a time from 00:00 to 23:59")
    return time(int(match["hour"]), int(match["minute"]))


def _zone(text: str) -> ZoneInfo:
    # EST is a zone, too: one without summer time, which is hardly what is meant.
    if "/" in text or text == "UTC":
        try:
            return ZoneInfo(text)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: it names a folder
            pass
    raise _refused(f"{text!r} is not a time zone named by place, nor UTC")


def _refused(what: str) -> ValueError:
    return ValueError(f"{what}; an example is {EXAMPLE}")
