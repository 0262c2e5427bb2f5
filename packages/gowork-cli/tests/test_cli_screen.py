"""What `gowork top` draws fits whatever room there is."""

from __future__ import annotations

import html
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from gowork.cli import __version__
from gowork.cli.columns import Column, fitted, shared
from gowork.cli.screen import pages, screen
from gowork.cli.tables import outcome
from gowork.client import (
    Activity,
    Failure,
    FailureKind,
    Liveness,
    Member,
    MemberKind,
    MemberStats,
    Queue,
    QueueActivity,
    QueueCounts,
    TaskInfo,
    TaskStatus,
    WaitCode,
)
from gowork.client.frames import Frame, QueueRow
from gowork.client.rates import Flow

NOW = datetime(2026, 11, 24, 18, tzinfo=UTC)


def member(id: str, liveness: Liveness = Liveness.LIVE, running: int = 0, slots: int = 8) -> Member:
    seen = NOW - timedelta(seconds=3)
    return Member(id, "", "", liveness, MemberKind.SESSION, slots, running, ("h",), {"a": "b"}, "", seen, seen, ())


def row(name: str, waiting: int = 0, running: int = 0, flow: Flow | None = None, **queue: float) -> QueueRow:
    settings = {"paused": False, "weight": 1, "concurrency_limit": 0, "key_concurrency_limit": 0, "rate_limit": 0.0}
    made = Queue(name, **{**settings, **queue}, rate_burst=0, waiting=waiting, delayed=0, running=running)  # type: ignore[arg-type]
    reasons = {WaitCode.NO_SLOT: waiting, WaitCode.DELAYED: 7} if waiting else {}
    return QueueRow(QueueActivity(made, 90.0 if waiting else None, reasons, None), flow)


def failure(id: str) -> TaskInfo:
    told = Failure(FailureKind.HANDLER, "two\nlines [red]", "ValueError", "")
    return TaskInfo(id, TaskStatus.ERROR, "h", "q", worker="w", finished_at=NOW - timedelta(minutes=2), failure=told)


def frame(
    members: int = 3,
    queues: int = 4,
    failures: int = 5,
    *,
    error: str = "",
    total: Flow | None = None,
    queues_total: int | None = None,
) -> Frame:
    nothing = QueueCounts(0, 0, 0, 0, ())
    rows = tuple(row(f"queue-{number}", waiting=1_000 + number) for number in range(queues))
    activity = Activity(
        tuple(each.activity for each in rows),
        queues if queues_total is None else queues_total,
        nothing,
        (),
        tuple(failure(f"task-{number}") for number in range(failures)),
        (MemberStats(Liveness.LIVE, 3, 24, 9), MemberStats(Liveness.LOST, 1, 8, 0)),
        1_234,
        56,
        "0.1.0",
        3,
        NOW,
        7_380.0,
    )
    workers = tuple(member(f"worker-{number}", running=number) for number in range(members))
    return Frame("leader:50052", activity, workers, rows, total, 0.0, error)


def drawn(what: RenderableType, width: int) -> list[str]:
    out = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    out.print(what)
    assert isinstance(out.file, io.StringIO)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


class TestRoom:
    @pytest.mark.parametrize("width", [1, 2, 7, 40, 80, 300])
    @pytest.mark.parametrize("height", [*range(1, 14), 24, 60])
    def test_a_screen_never_needs_more_than_there_is(self, width: int, height: int) -> None:
        for sizes in ((0, 0, 0), (3, 4, 5), (1, 40, 0), (200, 200, 20)):
            for error in ("", "no leader answers at leader:50052"):
                lines = drawn(screen(frame(*sizes, error=error), width, height, 0.0, 1.0), width)
                assert len(lines) <= height
                assert max(map(len, lines)) <= width

    def test_what_is_cut_off_is_counted(self) -> None:
        lines = drawn(screen(frame(50, 60, 20), 120, 30, 0.0, 1.0), 120)
        assert len(lines) == 30
        for what, all_rows in (("worker-", 50), ("queue-", 60), ("task-", 20)):
            shown = sum(line.startswith(what) for line in lines)
            assert shown > 3
            assert f"… and {all_rows - shown} more" in lines

    def test_queues_that_the_leader_left_out_are_counted_too(self) -> None:
        assert "… and 500 more" in drawn(pages(frame(queues=1_000, queues_total=1_500), 200, 0.0), 200)

    def test_a_table_that_needs_little_leaves_its_lines_to_the_others(self) -> None:
        lines = drawn(screen(frame(2, 30, 0), 120, 30, 0.0, 1.0), 120)
        assert sum(line.startswith("worker-") for line in lines) == 2
        assert sum(line.startswith("queue-") for line in lines) >= 15
        assert "no failed tasks" in lines

    def test_in_little_room_the_queues_stay(self) -> None:
        lines = drawn(screen(frame(), 80, 8, 0.0, 1.0), 80)
        assert [line.split()[0] for line in lines if line][3:] == ["QUEUE", "queue-0", "queue-1", "…"]

    @pytest.mark.parametrize(
        ("lines", "wants", "given"),
        [
            (30, (5, 5, 5), [5, 5, 5]),
            (12, (2, 20, 20), [2, 5, 5]),
            (13, (20, 2, 20), [5, 2, 6]),
            (8, (20, 20, 20), [4, 4, 0]),
            (7, (20, 20, 2), [7, 0, 0]),
            (3, (20, 20, 20), [0, 0, 0]),
            (3, (2, 20, 20), [2, 0, 0]),
        ],
    )
    def test_lines_are_shared_fairly(self, lines: int, wants: tuple[int, ...], given: list[int]) -> None:
        assert shared(lines, wants, 4) == given

    def test_columns_go_in_the_order_of_their_need_and_those_without_a_word_first(self) -> None:
        columns = [
            Column("NAME"),
            Column("NUMBER", 2, number=True),
            Column("LAST", 1),
            Column("EMPTY", 0),
            Column("WORDS", 3, gives_way=True),
        ]
        rows = [[Text("name-of-20-characters"), Text("12"), Text("here"), Text(), Text("many words that give way")]]
        headings = {
            width: drawn(fitted(columns, rows, 1, width, 9), width)[0].split() for width in (100, 65, 60, 32, 22)
        }
        assert headings == {
            100: ["NAME", "NUMBER", "LAST", "EMPTY", "WORDS"],
            65: ["NAME", "NUMBER", "LAST", "WORDS"],
            60: ["NAME", "NUMBER", "LAST", "WORDS"],
            32: ["NAME", "NUMBER", "LAST"],
            22: ["NAME", "LAST"],
        }
        assert drawn(fitted(columns, rows, 1, 22, 9), 22)[1] == "name-of-20-char…  here"


class TestPicture:
    PICTURE = Path(__file__).parents[3] / "docs/pictures/top.svg"

    def test_the_picture_in_the_docs_is_of_the_screen_as_it_is_now(self) -> None:
        texts = re.findall(r"<text[^>]*>(.*?)</text>", self.PICTURE.read_text())
        shown = {word for text in texts for word in html.unescape(text).split()}
        headings = [line for line in drawn(pages(frame(), 132, 0.0), 132) if line.isupper()]
        assert len(headings) == 3
        for heading in headings:
            assert set(heading.split()) <= shown, f"{heading}: run `nox -s pictures`"

    def test_the_picture_is_of_this_version(self) -> None:
        texts = [html.unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", self.PICTURE.read_text())]
        (version,) = re.findall(r"version\s+(\d+\.\d+)", " ".join(texts))
        assert __version__.startswith(f"{version}."), "run `nox -s pictures`"

    def test_the_picture_tells_nothing_of_where_it_was_drawn_and_loads_nothing(self) -> None:
        picture = self.PICTURE.read_text()
        addresses = {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
        assert set(re.findall(r"https?://[^\"' )<]+", picture)) == addresses
        assert not re.search(r"/(tmp|home|root|usr)/|ipv4:", picture)


class TestWords:
    def test_a_page_shows_all_however_much_there_is(self) -> None:
        flow = Flow(12.5, 1_234.0, 0.05, 0.012, 2.0)
        lines = drawn(pages(frame(300, 200, 20, total=flow), 100_000, 0.0), 100_000)
        assert len(lines) == 3 + 3 * 2 + 300 + 200 + 20
        assert lines[:3] == [
            "gowork top  leader:50052  version 0.1.0  term 3  up 2 h 03 m",
            "members  3 LIVE  1 LOST   slots  32, 9 tasks held   kept  1,234 finished, 56 of them failed",
            f"tasks    {sum(range(1000, 1200)):,} waiting  0 delayed  0 running   12.5 in/s  1,234 out/s  "
            "0.05 failed/s   start after 12 ms (p50)  2.0 s (p99)",
        ]

    def test_a_row_says_why_tasks_wait_and_what_the_queue_may(self) -> None:
        shown = row(
            "mail", 1_200, 3, paused=True, concurrency_limit=10, key_concurrency_limit=2, rate_limit=0.5, weight=5
        )
        made = frame(1, 1, 1)
        lines = drawn(pages(Frame("a", made.activity, made.members, (shown,), None, 0.0), 100_000, 0.0), 100_000)
        (queue,) = (line for line in lines if line.startswith("mail"))
        assert queue.split(maxsplit=6)[1:6] == ["paused", "1,200", "0", "3", "1"]
        assert "10 at once, 2 a key, 0.5/s, weight 5" in queue
        assert queue.endswith("no slot 1,200")
        (worker,) = (line for line in lines if line.startswith("worker-0"))
        assert worker.split()[1:] == ["LIVE", "━" * 10, "0/8", "3.0", "s", "ago", "h", "a=b"]
        (failed,) = (line for line in lines if line.startswith("task-0"))
        assert failed.split(maxsplit=7) == [
            *("task-0", "2", "m", "00", "s", "h", "q"),
            "w       HANDLER ValueError: two lines [red]",
        ]

    def test_a_tasks_words_do_nothing_to_the_terminal(self) -> None:
        told = Failure(FailureKind.HANDLER, "\x1b]0;title\x07 \x9b31m\tred\r\n", "", "")
        cell = outcome(TaskInfo("t", TaskStatus.ERROR, failure=told))
        assert cell.plain.isprintable()
        assert cell.plain.split() == ["HANDLER", "]0;title", "31m", "red"]

    @pytest.mark.parametrize(("age", "error", "old"), [(0.5, "", False), (3.5, "", True), (0.5, "no leader", True)])
    def test_old_data_is_called_so(self, age: float, error: str, old: bool) -> None:
        lines = drawn(screen(frame(error=error), 120, 30, age, 1.0), 120)
        assert lines[0].startswith("as of " if old else "gowork top")
        if old:
            assert lines[0].endswith(error or "the leader at leader:50052 does not answer")
            assert lines[1].startswith("gowork top")
