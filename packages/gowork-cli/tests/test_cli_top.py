"""The command `gowork top`, against a real cluster, on a real terminal and elsewhere."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from gowork.cli.terminal import keys

#: Makes the terminal on its standard input its own, as a shell does, so that Ctrl-C is heard; then becomes the command.
_IN_A_TERMINAL = """
import os, sys
os.open(os.ttyname(0), os.O_RDWR)
os.execv(sys.executable, [sys.executable, "-m", "gowork.cli", *sys.argv[1:]])
"""
_SCREEN_BEGINS, _SCREEN_ENDS, _CURSOR_SHOWN = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"


class Terminal:
    """A command in a terminal of its own, and all that it has written there."""

    def __init__(self, leader: str, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self._theirs = theirs
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.modes = self.modes_now()
        self.written = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_A_TERMINAL, "--leader", leader, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )

    def modes_now(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def until(self, words: bytes) -> None:
        """Reads until it has written this, after what was read before."""
        begin = len(self.written)
        while words not in self.written[begin:]:
            self._read()

    def ended(self) -> int:
        """Its exit code, with all that it has written read."""
        while self.process.poll() is None:
            # It may wait for room to write.
            if select.select([self._ours], [], [], 0.05)[0]:
                self._read()
        while select.select([self._ours], [], [], 0)[0]:
            self._read()
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def _read(self) -> None:
        self.written += os.read(self._ours, 1 << 16)


@contextmanager
def terminal(leader: str, *arguments: str) -> Iterator[Terminal]:
    made = Terminal(leader, *arguments)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def updates(leader: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Iterator[dict[str, Any]]]]:
    """The command with JSON lines, and its objects as they come."""
    command = [sys.executable, "-m", "gowork.cli", "--leader", leader, "top", "-o", "jsonl", "--interval", "0.2"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, map(json.loads, process.stdout)
        finally:
            process.kill()


@pytest.fixture
def queue() -> str:
    return f"q-{uuid.uuid4().hex}"


def row_of(update: dict[str, Any], queue: str) -> dict[str, Any]:
    (found,) = [row for row in update["queues"] if row["name"] == queue]
    return found


class TestPrograms:
    def test_one_update_is_a_snapshot(self, gowork, cluster, queue: str) -> None:
        lines = "".join(json.dumps({"payload": number}) + "\n" for number in range(3))
        gowork("add", "--file", "-", "--handler", "double", "--queue", queue, "--wait", input=lines)
        gowork("add", f"{queue}-bad", "no", "--handler", "fail", "--queue", queue, "--wait")
        gowork("add", "later", "--queue", queue, "--in", "1h")
        gowork("add", "p", "--queue", queue, "--handler", "unheard-of")
        result = gowork("top", "--count", "1", "-o", "json")
        assert (result.exit_code, result.stderr) == (0, "")
        update = json.loads(result.stdout)
        row = row_of(update, queue)
        counts = row["counts"]
        assert (row["waiting"], row["delayed"], row["running"]) == (1, 1, 0)
        assert row["reasons"] == {"NO_HANDLER": 1, "DELAYED": 1}
        assert row["oldest_waiting"] > 0
        assert [counts[name] for name in ("submitted", "completed", "cancelled", "failed")] == [6, 3, 0, 1]
        assert (sum(counts["start_counts"]), len(counts["start_counts"])) == (4, len(update["start_bounds"]) + 1)
        assert (row["flow"], update["total"], update["error"]) == (None, None, None)
        assert update["failures"][0]["id"] == f"{queue}-bad"
        assert update["failures"][0]["failure"]["message"] == "[red]no"
        (member,) = update["members"]
        assert (member["id"], member["slots"], member["liveness"]) == ("worker-1", 8, "LIVE")
        assert (update["leader"], update["term"]) == (cluster.scheduler, 1)

    def test_later_updates_have_the_rates_until_it_is_interrupted(self, gowork, cluster, queue: str) -> None:
        with updates(cluster.scheduler) as (process, told):
            assert next(told)["total"] is None
            lines = "".join(json.dumps({"payload": number}) + "\n" for number in range(50))
            gowork("add", "--file", "-", "--handler", "double", "--queue", queue, "--wait", input=lines)
            flows = (row["flow"] for update in told for row in update["queues"] if row["name"] == queue)
            flow = next(flow for flow in flows if flow is not None and flow["finished"] > 0)
            assert flow["submitted"] > 0
            assert flow["failed"] == 0
            assert 0 < flow["start_p50"] <= flow["start_p99"]
            process.send_signal(signal.SIGINT)
            # What it had told before is still to be read.
            list(told)
            assert process.wait() == 130
            assert process.stderr is not None
            assert process.stderr.read() == ""

    def test_it_ends_after_so_many_updates(self, cluster) -> None:
        with updates(cluster.scheduler, "-n", "3") as (process, told):
            first, second, third = told
            assert first["uptime"] < second["uptime"] < third["uptime"]
            assert second["total"] is not None
            assert process.wait() == 0

    @pytest.mark.longer
    @pytest.mark.longer
    def test_a_leader_that_goes_is_told_of_and_the_next_one_is_found(self, up_in, invoke, tmp_path: Path) -> None:
        with up_in(tmp_path) as up:
            leader = up.scheduler
            invoke(["--leader", leader, "add", "kept", "p", "--queue", "q", "--handler", "unheard-of"])
            with updates(leader) as (_, told):
                before = next(told)
                up.stop(signal.SIGTERM)
                gone = next(update for update in told if update["error"])
                assert gone["error"] == f"no leader answers at {leader}"
                assert row_of(gone, "q")["waiting"] == row_of(before, "q")["waiting"] == 1
                with up_in(tmp_path, "--scheduler-listen", leader):
                    back = next(update for update in told if not update["error"] and update["term"] > before["term"])
                    # Nothing of the term before is compared with it.
                    assert (back["total"], row_of(back, "q")["waiting"]) == (None, 1)


class TestPages:
    def test_elsewhere_than_on_a_terminal_it_is_printed_once_without_colour(self, gowork, queue: str) -> None:
        gowork("add", f"{queue}-bad", "no", "--handler", "fail", "--queue", queue, "--wait")
        result = gowork("top")
        assert (result.exit_code, result.stderr) == (0, "")
        assert "\x1b" not in result.stdout
        lines = result.stdout.splitlines()
        assert lines[0].startswith("gowork top  127.0.0.1:")
        assert [line.split()[0] for line in lines[:3]] == ["gowork", "members", "tasks"]
        assert any(line.split()[:2] == ["worker-1", "LIVE"] for line in lines)
        assert any(line.startswith(queue) for line in lines)
        assert any(line.startswith(f"{queue}-bad") and "RuntimeError: [red]no" in line for line in lines)

    def test_it_is_printed_as_often_as_asked(self, gowork) -> None:
        lines = gowork("top", "-n", "2", "--interval", "0.2").stdout.splitlines()
        assert sum(line.startswith("gowork top") for line in lines) == 2
        assert ["in/s" in line for line in lines if line.startswith("tasks ")] == [False, True]

    @pytest.mark.parametrize("options", [("--interval", "0.1"), ("--interval", "61"), ("-n", "0")])
    def test_what_is_out_of_bounds_is_wrong_usage(self, gowork, options: tuple[str, ...]) -> None:
        result = gowork("top", *options)
        assert result.exit_code == 2
        assert "is not in the range" in result.stderr


class TestKeys:
    def test_without_a_terminal_to_read_from_there_are_no_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with open(os.devnull) as nothing:
            for stdin in (nothing, None):
                monkeypatch.setattr(sys, "stdin", stdin)
                with keys() as pressed:
                    assert pressed.wait(0) == ""
        assert signal.getsignal(signal.SIGTERM) is before


class TestTerminal:
    @pytest.mark.parametrize(("key", "code"), [(b"\x03", 130), (b"q", 0), (b"Q", 0), (signal.SIGTERM, 143)])
    def test_a_key_or_a_signal_ends_it_and_the_terminal_is_as_it_was(
        self, cluster, key: bytes | signal.Signals, code: int
    ) -> None:
        with terminal(cluster.scheduler, "top", "--interval", "60") as view:
            view.until(b"QUEUE")
            assert _SCREEN_BEGINS in view.written
            assert view.modes_now() != view.modes
            assert view.modes_now()[6][termios.VSUSP] == b"\0"
            if isinstance(key, signal.Signals):
                view.process.send_signal(key)
            else:
                view.press(b"x")
                view.press(key)
            assert view.ended() == code
            assert view.modes_now() == view.modes
            assert view.written.rindex(_SCREEN_ENDS) > view.written.rindex(_SCREEN_BEGINS)
            assert view.written.rindex(_CURSOR_SHOWN) > view.written.rindex(b"\x1b[?25l")
            assert b"Traceback" not in view.written

    def test_the_last_of_so_many_updates_stays_to_be_read(self, cluster) -> None:
        with terminal(cluster.scheduler, "top", "-n", "2", "--interval", "0.2") as view:
            assert view.ended() == 0
            screen, left = view.written.split(_SCREEN_ENDS)
            assert b"QUEUE" in screen
            assert b"in/s" in left

    def test_one_update_does_not_take_the_screen(self, cluster) -> None:
        with terminal(cluster.scheduler, "top", "-n", "1") as view:
            assert view.ended() == 0
            assert _SCREEN_BEGINS not in view.written
            lines = re.sub(rb"\x1b\[[0-9;]*m", b"", view.written).decode().splitlines()
            assert lines[0].startswith("gowork top")
            assert max(map(len, lines)) <= 100

    def test_a_leader_that_goes_is_told_of_and_the_next_one_is_found(self, up_in, tmp_path: Path) -> None:
        with up_in(tmp_path) as up:
            leader = up.scheduler
            with terminal(leader, "top", "--interval", "0.2") as view:
                view.until(b"term 1")
                up.stop(signal.SIGTERM)
                view.until(f"no leader answers at {leader}".encode())
                with up_in(tmp_path, "--scheduler-listen", leader):
                    view.until(b"term 2")
                    view.press(b"q")
                    assert view.ended() == 0
            assert b"Traceback" not in view.written

    @pytest.mark.longer
    def test_a_leader_that_hangs_is_told_of_and_goes_on(self, up_in, tmp_path: Path) -> None:
        with up_in(tmp_path, "--workers", "0") as up:
            (leader,) = [
                child for child in psutil.Process(up.process.pid).children() if "gowork.leader" in child.cmdline()
            ]
            with terminal(up.scheduler, "top", "--interval", "0.2") as view, updates(up.scheduler) as (_, told):
                view.until(b"term 1")
                before = next(told)
                leader.suspend()
                # The screen tells it before the call has run into its deadline.
                view.until(f"the leader at {up.scheduler} does not answer".encode())
                hung = next(update for update in told if update["error"])
                assert hung["error"] == f"the leader at {up.scheduler} does not answer"
                leader.resume()
                back = next(update for update in told if not update["error"])
                assert (back["term"], back["uptime"] > before["uptime"]) == (1, True)
                view.press(b"q")
                assert view.ended() == 0

    def test_no_leader_to_begin_with_leaves_the_screen_alone(self, free_address: str) -> None:
        with terminal(free_address, "top") as view:
            assert view.ended() == 3
            assert _SCREEN_BEGINS not in view.written
            assert free_address.encode() in view.written
