"""What the Gateway's notices say: numbers and words as users have logged them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broker.gateway.base import Notice
from broker.gateway.conditions import News, conditions_of
from broker.session.model import ConditionStatus

NOW = datetime(2025, 1, 1, tzinfo=UTC)
INACTIVE = "data farm connection is inactive but should be available upon demand."


@pytest.mark.parametrize(
    ("code", "text", "farm"),
    [
        (2103, "Market data farm connection is broken:usfarm", "usfarm"),
        (2104, "Market data farm connection is OK:usfarm.nj", "usfarm.nj"),
        (2108, f"Market {INACTIVE}usfarm", "usfarm"),
        (2108, f"Market {INACTIVE}usfarm.nj", "usfarm.nj"),
        (2119, "Market data farm is connecting:usfarm", "usfarm"),
        (2107, f"HMDS {INACTIVE}ushmds", "ushmds"),
        (2107, f"HMDS {INACTIVE}", ""),
        (2158, "Sec-def data farm connection is OK:secdefil", "secdefil"),
    ],
)
def test_a_farm_has_one_name_whatever_is_said_of_it(code: int, text: str, farm: str) -> None:
    [condition] = conditions_of(Notice(code, text), NOW)
    assert condition.subject == farm


def test_a_farm_that_is_inactive_is_no_longer_broken() -> None:
    broken = Notice(2105, "HMDS data farm connection is broken:ushmds")
    [before] = conditions_of(broken, NOW)
    [after] = conditions_of(Notice(2107, f"HMDS {INACTIVE}ushmds"), NOW)
    assert (before.type, before.subject) == (after.type, after.subject)
    assert (before.status, after.status) == (ConditionStatus.FALSE, ConditionStatus.TRUE)


def test_only_a_read_only_api_makes_a_session_unwritable() -> None:
    refused = "Error validating request.-'bK' : cause - The API interface is currently in Read-Only"
    [condition] = conditions_of(Notice(321, f"{refused} mode."), NOW)
    assert (condition.type, condition.status) == ("WRITABLE", ConditionStatus.FALSE)
    assert not conditions_of(Notice(321, "Error validating request.-'bZ' : cause - X"), NOW)


def test_only_what_is_not_well_or_is_well_again_is_news() -> None:
    news = News()

    def told(code: int, text: str, *, live: bool) -> bool:
        notice = Notice(code, text)
        return news.has(notice, conditions_of(notice, NOW), live=live)

    assert not told(2104, "Market data farm connection is OK:usfarm", live=False)
    assert not told(2104, "Market data farm connection is OK:usfarm", live=True)
    assert told(2103, "Market data farm connection is broken:usfarm", live=True)
    assert not told(2104, "Market data farm connection is OK:eufarm", live=True)
    assert told(2104, "Market data farm connection is OK:usfarm", live=True)
    assert not told(2104, "Market data farm connection is OK:usfarm", live=True)
    assert not told(326, "Unable to connect as the client id is already in use.", live=False)
    assert told(1300, "TWS socket port has been reset.", live=True)
