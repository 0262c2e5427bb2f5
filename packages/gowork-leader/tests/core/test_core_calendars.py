"""Ticks are reckoned from the calendar and the tick before, in every zone, over changes of the clocks."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest

from gowork.leader._core.calendars import (
    At,
    Calendar,
    CalendarError,
    Cron,
    Every,
    check_cron,
    count_ticks,
    ticks_after,
)

#: {zone: times in UTC some hours before its clocks change}. They change by an hour, by half an hour, at midnight, or
#: never, and once a whole day was left out.
ZONES = {
    "Europe/Berlin": ("2026-03-28 18:00", "2026-10-24 18:00"),
    "America/New_York": ("2026-03-07 22:00", "2026-10-31 22:00"),
    "Australia/Lord_Howe": ("2026-04-04 06:00", "2026-10-03 06:00"),
    "America/Santiago": ("2026-04-04 20:00", "2026-09-05 20:00"),
    "Asia/Tokyo": ("2026-03-28 18:00",),
    "Pacific/Apia": ("2011-12-30 00:00", "2012-03-31 06:00"),
}


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def times(calendar: Calendar, after: str, number: int) -> list[str]:
    return [
        f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d %H:%M:%S}"
        for at in islice(ticks_after(calendar, ms(after)), number)
    ]


def between(calendar: Calendar, after: str, until: str) -> list[int]:
    return list(takewhile(lambda at: at < ms(until), ticks_after(calendar, ms(after))))


def test_a_time_of_day_that_is_left_out_is_ticked_right_after():
    # On 29 March 2026 the clocks of Berlin go from 02:00 to 03:00, which is 01:00 UTC.
    calendar = Cron("30 2 * * *", "Europe/Berlin")
    assert times(calendar, "2026-03-28 00:00", 3) == [
        "2026-03-28 01:30:00",
        "2026-03-29 01:00:00",
        "2026-03-30 00:30:00",
    ]


def test_times_of_day_that_are_left_out_together_are_one_tick():
    calendar = Cron("0,30 2 * * *", "Europe/Berlin")
    assert times(calendar, "2026-03-29 00:00", 2) == ["2026-03-29 01:00:00", "2026-03-30 00:00:00"]


def test_a_time_of_day_that_comes_twice_is_ticked_once():
    # On 25 October 2026 the clocks of Berlin go from 03:00 back to 02:00, which is 01:00 UTC.
    calendar = Cron("30 2 * * *", "Europe/Berlin")
    assert times(calendar, "2026-10-24 01:00", 3) == [
        "2026-10-25 00:30:00",
        "2026-10-26 01:30:00",
        "2026-10-27 01:30:00",
    ]


def test_a_tick_after_the_second_of_two_equal_hours_is_not_before_it():
    # 02:10 in the second of the two hours: the library would go on with 02:30 of the first one.
    calendar = Cron("30 2,3 * * *", "Europe/Berlin")
    assert times(calendar, "2026-10-25 01:10", 1) == ["2026-10-25 02:30:00"]


@pytest.mark.parametrize("expression", ["*/20 * * * *", "10 */1 * * *", "0 30 * * * *"])
def test_other_expressions_go_by_elapsed_time(expression: str):
    day = 24 * 3600 * 1000
    changed = between(Cron(expression, "Europe/Berlin"), "2026-10-24 23:00", "2026-10-25 03:00")
    assert changed == [at + day for at in between(Cron(expression, ""), "2026-10-23 23:00", "2026-10-24 03:00")]


@pytest.mark.parametrize("zone", ZONES)
def test_a_daily_schedule_ticks_once_on_each_day_of_its_zone(zone: str):
    for expression in ("30 2 * * *", "0 0 * * *", "59 23 * * *"):
        ticks = between(Cron(expression, zone), "2011-07-01 12:00", "2012-07-01 12:00")
        assert all(earlier < later for earlier, later in pairwise(ticks))
        days = Counter(datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).date() for at in ticks)
        first, last = min(days), max(days)
        every = {first + timedelta(days=number) for number in range((last - first).days + 1)}
        # What falls on the day that Apia left out is ticked right after.
        left_out = {date(2011, 12, 30)} if zone == "Pacific/Apia" else set()
        assert set(days) == every - left_out
        extra = Counter(days) - Counter(every)
        assert sum(extra.values()) <= len(left_out)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/30 * * * *", "15 1,2,3 * * *", "0 30 1 * * *"])
def test_whoever_goes_on_from_a_tick_comes_to_the_same_next_one(zone: str, expression: str):
    calendar = Cron(expression, zone)
    for start in ZONES[zone]:
        ticks = list(islice(ticks_after(calendar, ms(start)), 40))
        assert all(earlier < later for earlier, later in pairwise(ticks))
        assert [next(ticks_after(calendar, at)) for at in ticks[:-1]] == ticks[1:]
        assert [next(ticks_after(calendar, at - 1)) for at in ticks] == ticks


def test_equal_distances_count_from_the_anchor():
    calendar = Every(600_000, 90_000)
    assert times(calendar, "2026-12-01 00:00", 2) == ["2026-12-01 00:01:30", "2026-12-01 00:11:30"]
    assert next(ticks_after(calendar, ms("2026-12-01 00:01:30"))) == ms("2026-12-01 00:11:30")
    assert next(ticks_after(Every(600_000, ms("2030-01-01 00:00")), ms("2026-12-01 00:05"))) == ms("2026-12-01 00:10")


def test_single_times_come_in_order_and_end():
    calendar = At((1000, 5000, 9000))
    assert list(ticks_after(calendar, 0)) == [1000, 5000, 9000]
    assert list(ticks_after(calendar, 1000)) == [5000, 9000]
    assert list(ticks_after(calendar, 9000)) == []


def test_ticks_are_counted_up_to_a_time_and_a_limit():
    hourly = Cron("0 * * * *", "")
    assert count_ticks(hourly, ms("2026-12-01 00:00"), ms("2026-12-01 05:00"), 100) == (5, ms("2026-12-01 05:00"))
    assert count_ticks(hourly, ms("2026-12-01 00:00"), ms("2026-12-01 05:00"), 2) == (2, ms("2026-12-01 02:00"))
    assert count_ticks(hourly, ms("2026-12-01 00:00"), ms("2026-12-01 00:59"), 2) == (0, ms("2026-12-01 00:00"))


@pytest.mark.parametrize("every_ms", [1000, 7000, 600_000])
def test_equal_distances_are_counted_without_looking_at_each(every_ms: int):
    calendar = Every(every_ms, 3000)
    for after, until in ((0, 100_000), (3000, 3000), (3000, 10_000_000), (2999, 3000), (5000, 4000)):
        one_by_one = [at for at in islice(ticks_after(calendar, after), 20_000) if at <= until]
        expected = (len(one_by_one), one_by_one[-1]) if one_by_one else (0, after)
        assert count_ticks(calendar, after, until, 1) == expected


def test_an_expression_that_never_comes_has_no_ticks():
    assert list(ticks_after(Cron("* * */20 * 1L", "UTC"), 0)) == []
    # A zone that this machine's database lacks, because the schedule was made elsewhere.
    assert list(ticks_after(Cron("* * * * *", "Mars/Olympus"), 0)) == []


def test_ticks_end_before_the_year_9999():
    last = ms("9998-12-31 23:59:59")
    assert list(ticks_after(Cron("0 0 1 1 *", "Europe/Berlin"), last)) == []
    assert list(ticks_after(Every(3_600_000, 0), last)) == []


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", "wrong number of fields"),
        ("61 * * * *", "bad minute"),
        ("* * * * MON#9", "bad day-of-week"),
        ("* * * * * * *", "wrong number of fields"),
        ("*/0 * * * *", "bad minute"),
        ("0 0 31 2 *", "bad day-of-month"),
        ("٣ * * * *", "ASCII"),
        (f"{'1,' * 130}1 * * * *", "256 bytes"),
    ],
)
def test_an_expression_that_cannot_be_read_is_refused(expression: str, words: str):
    with pytest.raises(CalendarError, match=words) as caught:
        check_cron(expression, "")
    assert caught.value.field == "expression"


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "Europe", "/etc/passwd", "\x00", "a" * 5000])
def test_a_time_zone_that_is_not_known_is_refused(zone: str):
    with pytest.raises(CalendarError) as caught:
        check_cron("* * * * *", zone)
    assert caught.value.field == "time_zone"
