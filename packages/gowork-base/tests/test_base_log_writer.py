"""Whoever logs never waits for the reader of the log, and what is dropped meanwhile is counted."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from gowork.base import log_writer, logs
from gowork.base.log_writer import LogWriter, QueuedStream

PATIENCE = 120.0
LINE = b"x" * 99 + b"\n"


class Pipe:
    """A pipe that takes 4 KiB, and somebody who reads it when told to."""

    def __init__(self) -> None:
        reader, self.end = os.pipe()
        fcntl.fcntl(self.end, fcntl.F_SETPIPE_SZ, 4096)
        self.reader: BinaryIO = os.fdopen(reader, "rb")

    def lines_until(self, last: bytes) -> list[bytes]:
        """Reads on from where it was left until a line has this in it."""
        found: list[bytes] = []
        while not found or last not in found[-1]:
            line = self.reader.readline()
            assert line, "the pipe has ended"
            found.append(line)
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.end)
    pipe.reader.close()


def notice(lines: int) -> bytes:
    return b"dropped %d\n" % lines


def closed(writer: LogWriter) -> None:
    writer.close(PATIENCE)


def test_lines_are_written_in_their_order(pipe: Pipe) -> None:
    writer = LogWriter(pipe.end, notice)
    for number in range(20):
        writer.put(b"line %d\n" % number)
    assert pipe.lines_until(b"line 19") == [b"line %d\n" % number for number in range(20)]
    closed(writer)


def test_a_reader_that_has_stopped_holds_up_nobody_and_what_is_dropped_is_counted(pipe: Pipe) -> None:
    writer = LogWriter(pipe.end, notice, waiting_bytes_max=10_000)
    for _ in range(1000):
        writer.put(LINE)
    assert not writer.flush(0)
    assert writer._dropped
    taken = pipe.lines_until(b"dropped")
    lost = int(taken[-1].split()[1])
    # The pipe itself has some, and so has what is being written.
    assert 1000 - 141 <= lost <= 1000 - 100
    assert len(taken) - 1 + lost == 1000
    writer.put(b"after\n")
    assert pipe.lines_until(b"after") == [b"after\n"]
    closed(writer)


def test_lines_that_come_together_and_are_dropped_are_counted_one_by_one(pipe: Pipe) -> None:
    writer = LogWriter(pipe.end, notice, waiting_bytes_max=10)
    # More than the pipe takes.
    writer.put(b"x" * 10_000 + b"\n")
    writer.put(b"one\ntwo\nthree\n", 3)
    assert pipe.lines_until(b"dropped")[-1] == b"dropped 3\n"
    closed(writer)


def test_what_was_dropped_is_told_before_what_comes_after_it(pipe: Pipe) -> None:
    writer = LogWriter(pipe.end, notice)
    with writer._changed:
        writer.put(b"before\n")
        writer._dropped = 10
        writer.put(b"next\n")
    assert pipe.lines_until(b"next") == [b"before\n", b"dropped 10\n", b"next\n"]
    closed(writer)


def test_a_line_beyond_the_bound_is_written_where_nothing_waits(pipe: Pipe) -> None:
    writer = LogWriter(pipe.end, notice, waiting_bytes_max=10)
    writer.put(LINE)
    assert pipe.lines_until(b"\n") == [LINE]
    closed(writer)


def test_what_could_not_be_written_is_told_with_the_next_line(pipe: Pipe) -> None:
    gone_reader, gone = os.pipe()
    os.close(gone_reader)
    with open(gone, "wb", buffering=0) as nowhere:
        writer = LogWriter(nowhere.fileno(), notice)
        writer.put(LINE)
        assert writer.flush(PATIENCE), "it must not be tried for ever"
        os.dup2(pipe.end, nowhere.fileno())
        writer.put(b"next\n")
        assert pipe.lines_until(b"next") == [b"dropped 1\n", b"next\n"]
        closed(writer)


def test_what_could_not_be_written_is_not_told_before_there_is_a_next_line() -> None:
    gone_reader, gone = os.pipe()
    os.close(gone_reader)
    told: list[int] = []

    def tell(lines: int) -> bytes:
        told.append(lines)
        return notice(lines)

    with open(gone, "wb", buffering=0) as nowhere:
        before = set(threading.enumerate())
        writer = LogWriter(nowhere.fileno(), tell)
        (thread,) = set(threading.enumerate()) - before
        writer.put(LINE)
        writer.close(PATIENCE / 4)
        thread.join(PATIENCE / 4)
        assert (thread.is_alive(), told) == (False, [])


def test_lines_that_have_gathered_are_written_in_bounded_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def write(_: int, chunk: bytes) -> bool:
        written.append(len(chunk))
        return True

    monkeypatch.setattr(log_writer, "_write", write)
    writer = LogWriter(-1, notice)
    with writer._changed:
        for _ in range(3):
            writer.put(b"x" * 39_999 + b"\n")
    closed(writer)
    assert written == [80_000, 40_000]


def test_a_count_of_dropped_lines_that_is_not_written_is_not_flushed_yet(pipe: Pipe) -> None:
    writer = LogWriter(pipe.end, notice)
    with writer._changed:
        writer._dropped = 1
        assert not writer.flush(0)
        writer._dropped = 0
    closed(writer)


def test_a_descriptor_that_others_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.end, False)
    writer = LogWriter(pipe.end, notice)
    for _ in range(200):
        writer.put(LINE)
    writer.put(b"last\n")
    assert len(pipe.lines_until(b"last")) == 201
    closed(writer)


def test_closing_waits_no_longer_than_asked_and_later_lines_are_dropped_in_a_jam(pipe: Pipe) -> None:
    writer = LogWriter(pipe.end, notice)
    for _ in range(100):
        writer.put(LINE)
    writer.close(0)
    writer.put(b"after\n")
    assert writer._dropped == 1
    assert pipe.lines_until(b"dropped")[-1] == b"dropped 1\n"


def test_what_is_being_written_is_not_flushed_yet(pipe: Pipe) -> None:
    writer = LogWriter(pipe.end, notice)
    writer.put(b"x" * 9_999 + b"\n")
    # By now the thread has taken it, and the pipe has no room for all of it.
    assert os.read(pipe.reader.fileno(), 1) == b"x"
    assert not writer.flush(0)
    pipe.lines_until(b"\n")
    assert writer.flush(PATIENCE)
    closed(writer)


def test_a_forked_child_waits_for_nothing_that_its_parent_writes(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter(pipe.end, notice)
    writer.put(b"x" * 9_999 + b"\n")
    assert not writer.flush(0)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        assert writer.flush(0)
    pipe.lines_until(b"\n")
    closed(writer)


def test_lines_after_the_end_are_written_at_once(pipe: Pipe) -> None:
    writer = LogWriter(pipe.end, notice)
    writer.put(b"before\n")
    closed(writer)
    writer.put(b"after\n")
    assert pipe.lines_until(b"after") == [b"before\n", b"after\n"]


def test_a_finalizer_may_log_while_its_thread_logs(pipe: Pipe) -> None:
    """Its thread holds the lock by then; without a lock that it may take again this would stand still."""

    def notice_and_log(lines: int) -> bytes:
        writer.put(b"inner\n")
        return notice(lines)

    writer = LogWriter(pipe.end, notice_and_log)
    with writer._changed:
        writer._dropped = 1
    writer.put(b"outer\n")
    assert b"inner\n" in pipe.lines_until(b"outer")
    closed(writer)


def test_a_stream_on_it_passes_whole_lines_on(pipe: Pipe) -> None:
    writer = LogWriter(pipe.end, notice)
    stream = QueuedStream(writer).text()
    print("one", 2, file=stream)
    stream.write("not yet")
    stream.write(" but now \udcff\n")
    assert pipe.lines_until(b"now") == [b"one 2\n", b"not yet but now \\udcff\n"]
    assert stream.fileno() == pipe.end
    assert not stream.isatty()
    closed(writer)


def test_records_are_made_into_lines_where_they_are_logged(pipe: Pipe) -> None:
    handler = logs.QueuedHandler(pipe.end)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.Logger("some.library", logging.DEBUG)  # noqa: LOG001
    logger.addHandler(handler)
    state = ["before"]
    logger.info("x", extra={"state": state})
    state[0] = "after"
    (line,) = pipe.lines_until(b"\n")
    assert json.loads(line)["state"] == ["before"]
    handler.close()


def test_the_notice_of_dropped_lines_has_the_form_of_the_log(pipe: Pipe) -> None:
    handler = logs.QueuedHandler(pipe.end)
    handler.setFormatter(logs.JsonFormatter(lambda: {"worker": "w"}))
    with handler.writer._changed:
        handler.writer._dropped = 3
    handler.writer.put(b"next\n")
    told, _ = pipe.lines_until(b"next")
    entry = json.loads(told)
    del entry["time"]
    assert entry == {
        "level": "warning",
        "logger": "gowork.base.logs",
        "event": "log lines were dropped",
        "worker": "w",
        "lines": 3,
        "reason": "standard error was not read",
    }
    handler.close()


PROGRAM = """
import logging, os, sys, threading, warnings
from gowork.base import log_writer, logs
logs.configure("json", "info")
logs.take_standard_error()
{}
"""


def lines_of(code: str) -> tuple[int, list[str]]:
    """The exit code and what is written on standard error by a process that has handed it to its log."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(code)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    ("code", "event", "level"),
    [
        ("raise OSError('no room')", "ended by an exception", "critical"),
        (
            "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join(); sys.exit(1)",
            "thread ended by an exception",
            "error",
        ),
        (
            "class A:\n    def __del__(self): 1 / 0\nA(); sys.exit(1)",
            "exception that nobody could take",
            "error",
        ),
    ],
)
def test_exceptions_that_nobody_took_are_records_and_are_out_when_the_process_ends(
    code: str, event: str, level: str
) -> None:
    exit_code, lines = lines_of(code)
    assert exit_code == 1
    (entry,) = map(json.loads, lines)
    assert (entry["event"], entry["level"]) == (event, level)
    assert "Error" in entry["exception"]


def test_warnings_are_records() -> None:
    _, lines = lines_of("warnings.warn('old')")
    (entry,) = map(json.loads, lines)
    assert (entry["logger"], entry["level"]) == ("py.warnings", "warning")
    assert "old" in entry["event"]


def test_what_is_printed_on_standard_error_comes_in_its_order() -> None:
    code = "logging.info('one'); print('two', file=sys.stderr); logging.info('three'); sys.exit('four')"
    exit_code, lines = lines_of(code)
    assert exit_code == 1
    assert json.loads(lines[0])["event"] == "one"
    assert lines[1] == "two"
    assert json.loads(lines[2])["event"] == "three"
    assert lines[3:] == ["four"]


def test_the_child_of_a_fork_writes_its_lines_itself() -> None:
    """It has no thread that writes."""
    code = """
import warnings
# Python 3.12 and later warn of forks beside threads, and the writer is one.
warnings.simplefilter("ignore", DeprecationWarning)
logging.info("parent")
child = os.fork()
if not child:
    logging.info("child")
    os._exit(0)
os.waitpid(child, 0)
logging.info("end")
"""
    _, lines = lines_of(code)
    assert sorted(json.loads(line)["event"] for line in lines) == ["child", "end", "parent"]


def test_a_process_ends_though_its_standard_error_is_not_read(pipe: Pipe) -> None:
    code = """
for number in range(1000): logging.info("line", extra={"number": number})
print("printed", file=sys.stderr)
print("done", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(code)], stdout=subprocess.PIPE, stderr=pipe.end, text=True
    )
    assert process.communicate(timeout=PATIENCE)[0] == "done\n"
    assert process.returncode == 0


def test_nothing_is_taken_over_where_standard_error_is_no_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.Logger("root")  # noqa: LOG001
    monkeypatch.setattr(logging, "root", root)
    monkeypatch.setattr(logging, "getLogger", lambda name=None: root)
    before = (sys.stderr, sys.excepthook, threading.excepthook, sys.unraisablehook)
    logs.configure("text", "info")
    logs.take_standard_error()
    assert before == (sys.stderr, sys.excepthook, threading.excepthook, sys.unraisablehook)
    root.info("here")
    assert "here" in capsys.readouterr().err
