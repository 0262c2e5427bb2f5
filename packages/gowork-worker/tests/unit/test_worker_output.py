"""What runners print, as the supervisor passes it on."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from gowork.base import logs
from gowork.worker._fleet import output
from gowork.worker._fleet.output import LINE_BYTES_MAX, Output, Outputs


class Lines:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        #: How often it was given some.
        self.puts = 0

    def put(self, line: bytes, lines: int = 1) -> None:
        self.puts += 1
        given = line.splitlines(keepends=True)
        assert len(given) == lines
        self.lines += given


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Lines:
    lines = Lines()
    monkeypatch.setattr(logs, "writer", lambda: lines)
    return lines


def test_many_short_lines_are_passed_on_at_once() -> None:
    lines: Any = Lines()
    reader = Output(lines)
    reader.data_received(b"\n" * 65536)
    assert (len(lines.lines), lines.puts) == (65536, 1)


def test_lines_are_passed_on_whole() -> None:
    lines: Any = Lines()
    reader = Output(lines)
    for data in (b"a", b"b\nc", b"\n\nrest"):
        reader.data_received(data)
    assert lines.lines == [b"ab\n", b"c\n", b"\n"]
    reader.connection_lost(None)
    assert lines.lines[3:] == [b"rest\n"]


def test_line_that_is_too_long_is_passed_on_in_pieces() -> None:
    lines: Any = Lines()
    reader = Output(lines)
    for _ in range(5):
        reader.data_received(b"x" * (LINE_BYTES_MAX // 2))
        assert len(reader._rest) <= LINE_BYTES_MAX
    assert lines.lines == [b"x" * LINE_BYTES_MAX + b"\n"] * 2


async def test_output_is_read_until_its_last_writer_is_gone(written: Lines) -> None:
    outputs = Outputs()
    reader, descriptor = await outputs.open()
    os.write(descriptor, b"first\n")
    await reader.drained()
    assert reader.is_left
    # What the runner has left running goes on.
    os.write(descriptor, b"later\n")
    os.close(descriptor)
    await reader.ended.wait()
    assert written.lines == [b"first\n", b"later\n"]
    await outputs.close()


async def test_outputs_that_ended_runners_left_open_are_bounded(
    written: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LEFT_MAX", 2)
    monkeypatch.setattr(output, "_END_SECONDS", 0.0)
    outputs = Outputs()
    opened = []
    for _ in range(4):
        opened.append(await outputs.open())
        await opened[-1][0].drained()
    async with asyncio.timeout(5):
        await opened[0][0].ended.wait()
        await opened[1][0].ended.wait()
    assert [reader.ended.is_set() for reader, _ in opened] == [True, True, False, False]
    await outputs.close()
    for _, descriptor in opened:
        os.close(descriptor)


async def test_program_with_a_log_of_its_own_has_what_handlers_print_on_its_standard_error(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "writer", lambda: None)
    outputs = Outputs()
    _, descriptor = await outputs.open()
    os.write(descriptor, b"printed\n")
    os.close(descriptor)
    await outputs.close()
    assert capfd.readouterr().err == "printed\n"
