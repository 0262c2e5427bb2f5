"""What is written stays readable, whatever stands in one row, and whatever it is written to."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone

import pytest

from gowork.cli.commands.members import _members_table
from gowork.cli.options import OutputFormat
from gowork.cli.output import ago, console, harmless, local, never_refuse, plain, table, write_record, write_records
from gowork.cli.records import task_record
from gowork.cli.tables import tasks_table
from gowork.client import Liveness, Member, MemberKind, TaskInfo, TaskStatus, TaskView
from gowork.client._responses import task_info
from gowork.proto.scheduler.v1 import scheduler_pb2

GERMAN_JAPANESE = "größe-日本語-🎉"


@contextmanager
def output_in(encoding: str) -> Iterator[io.BytesIO]:
    """Standard output of this encoding, into memory."""
    kept, before = io.BytesIO(), sys.stdout
    stream = sys.stdout = io.TextIOWrapper(kept, encoding=encoding)
    try:
        never_refuse(sys.stdout)
        yield kept
    finally:
        sys.stdout = before
        # It would close what it wrote to.
        stream.detach()


def run_gowork(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script in which $GOWORK is the command."""
    environment = {**os.environ, "GOWORK": f"{sys.executable} -m gowork", **variables}
    return subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
class TestEncodings:
    def test_a_table_is_printed_in_every_encoding(self, encoding: str) -> None:
        with output_in(encoding) as kept:
            rows = table("ID", "")
            rows.add_row(plain(GERMAN_JAPANESE), plain("━━▶…"))
            console().print(rows)
        row = kept.getvalue().decode(encoding).splitlines()[1]
        assert row.split()[0].startswith("gr")
        assert row.split()[-1] == ("━━▶…" if encoding == "utf-8" else "==>…" if encoding == "cp1252" else "==>~")

    def test_json_is_utf_8_or_ascii_in_every_encoding(self, encoding: str) -> None:
        record = {"id": GERMAN_JAPANESE, "result": "\ud800"}
        for form in OutputFormat.JSON, OutputFormat.JSONL:
            with output_in(encoding) as kept:
                write_records([record], form)
            (read,) = json.loads(kept.getvalue()) if form is OutputFormat.JSON else [json.loads(kept.getvalue())]
            assert read == record
            with output_in(encoding) as kept:
                write_record(record, form)
            assert json.loads(kept.getvalue().decode()) == record
            assert kept.getvalue().isascii() is (encoding != "utf-8")


class TestTimes:
    @pytest.mark.parametrize("ms", [1_790_000_000_000_000_000, (1 << 63) - 1, -(1 << 63)])
    def test_a_time_that_python_has_no_year_for_is_the_last_or_first_one(self, ms: int) -> None:
        task = task_info(scheduler_pb2.Task(id="i", status=scheduler_pb2.TASK_STATUS_PENDING, run_at_ms=ms))
        assert task.run_at is not None
        assert task.run_at.year == (9999 if ms > 0 else 1)
        record = task_record(task)
        assert record["run_at"] == ("9999-12-31T23:59:59.999Z" if ms > 0 else "0001-01-01T00:00:00.000Z")
        assert ago(task.run_at).startswith("in " if ms > 0 else "7")
        console().print(tasks_table([task]))

    def test_a_time_of_now_is_exact_to_the_millisecond(self) -> None:
        task = task_info(scheduler_pb2.Task(id="i", created_at_ms=1_795_855_296_789))
        assert task.created_at == datetime(2026, 11, 28, 8, 41, 36, 789_000, UTC)

    @pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "no such zone", ":", "<+99>-99"])
    def test_a_time_beyond_the_local_zone_is_told_in_utc(self, zone: str) -> None:
        code = (
            "import datetime as d; from gowork.cli.output import local; "
            "print(local(d.datetime.max.replace(tzinfo=d.UTC)))"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env={**os.environ, "TZ": zone}, capture_output=True, text=True)
        assert done.stdout.startswith("9999-12-31 23:59:59"), done.stderr

    def test_a_time_of_another_zone_is_written_in_utc(self) -> None:
        east = timezone(timedelta(hours=14))
        assert local(datetime(2026, 1, 1, 14, tzinfo=east)) == local(datetime(2026, 1, 1, tzinfo=UTC))


class TestValues:
    def test_json_has_null_where_a_number_is_not_finite(self) -> None:
        with output_in("utf-8") as kept:
            write_record({"rate": float("inf"), "flow": [{"p50": float("nan")}], "weight": 1}, OutputFormat.JSONL)
        assert kept.getvalue() == b'{"rate":null,"flow":[{"p50":null}],"weight":1}\n'

    @pytest.mark.parametrize("levels", [200, 201, 900, 100_000])
    def test_a_result_that_is_nested_too_deeply_is_a_string(self, levels: int) -> None:
        text = "[" * levels + "]" * levels
        record = task_record(TaskInfo("i", TaskStatus.COMPLETED, result=text), TaskView.RESULT)
        assert (record["result"] == text) is (levels > 200)
        with output_in("utf-8") as kept:
            write_record(record, OutputFormat.JSON)
        assert json.loads(kept.getvalue())["id"] == "i"

    def test_words_of_tasks_do_nothing_to_the_terminal(self) -> None:
        wild = "a\x1b]0;t\x07\x9b31m\u202eb\u2028c\nd\te"
        assert plain(wild).plain == "a ]0;t  31m b c d e"
        assert harmless(wild) == "a\\x1b]0;t\\x07\\x9b31m\\u202eb\\u2028c\nd\te"

    def test_a_view_leaves_out_what_it_lacks(self) -> None:
        task = TaskInfo("i", TaskStatus.COMPLETED, result="1")
        asked = {"handler", "queue", "priority", "labels", "selector", "retry", "cancel_requested", "progress"}
        assert not asked & task_record(task, TaskView.RESULT).keys()
        assert asked <= task_record(task, TaskView.BASIC).keys()
        assert "waiting_reason" not in task_record(task)
        assert task_record(task, explained=True)["waiting_reason"] is None


class TestColour:
    def test_forced_colour_does_not_make_a_file_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1"), ("TTY_INTERACTIVE", "1"), ("TERM", "xterm")):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("NO_COLOR", raising=False)
        with output_in("utf-8") as kept:
            out = console()
            assert not out.is_terminal
            out.print(plain("x", "red"))
        assert b"\x1b[31mx" in kept.getvalue()

    def test_a_file_has_no_colour_unless_it_is_forced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FORCE_COLOR", raising=False)
        with output_in("utf-8") as kept:
            console().print(plain("x", "red"))
        assert kept.getvalue() == b"x\n"


class TestFailedWrites:
    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
    @pytest.mark.parametrize("arguments", ["--help", "completion bash", "tasks --help"])
    def test_a_full_disk_is_one_line_and_exits_with_1(self, arguments: str) -> None:
        done = run_gowork(f"$GOWORK {arguments} > /dev/full")
        assert done.returncode == 1
        assert done.stderr == "gowork: standard output: No space left on device\n"

    def test_a_closed_standard_output_is_one_line_and_exits_with_1(self) -> None:
        done = run_gowork("$GOWORK completion bash >&-")
        assert done.returncode == 1
        assert done.stderr == "gowork: standard output: Bad file descriptor\n"

    def test_no_stream_at_all_does_no_harm(self) -> None:
        assert run_gowork("$GOWORK completion bash <&- >&- 2>&-").returncode == 1


@pytest.mark.parametrize(
    ("status", "shown"), [("left, unknown", "left"), ("unknown, unknown", "unknown"), ("alive, idle", "alive, idle")]
)
def test_of_a_worker_that_is_gone_no_word_says_that_nothing_is_known(status: str, shown: str) -> None:
    kind, liveness = MemberKind.SESSION, Liveness.LEFT
    table = _members_table([Member("a", "", status, liveness, kind, 4, 0, (), {}, "", None, None, ())])
    (column,) = [each for each in table.columns if each.header == "STATUS"]
    assert [str(cell) for cell in column.cells] == [shown]
