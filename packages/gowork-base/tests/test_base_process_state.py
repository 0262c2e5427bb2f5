"""Each in a process of its own that was started in a bad state."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gowork.base import process_state
from gowork.base.process_state import OPEN_FILES

_TOLD = """
import json, os, resource, signal, subprocess, sys
from gowork.base import process_state
process_state.settle()
told = {
    "ignored": sorted(int(n) for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN),
    "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
    "timer": signal.getitimer(signal.ITIMER_REAL)[0],
    "umask": process_state.settled_umask(),
    "mask": os.umask(0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "exit": subprocess.run([sys.executable, "-c", "raise SystemExit(7)"]).returncode,
    "streams": [
        stream is not None
        for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    ],
    "inherited": subprocess.run(
        [sys.executable, "-c", "import sys; raise SystemExit(None in (sys.stdin, sys.stdout, sys.stderr))"]
    ).returncode,
    "next": os.open(os.devnull, os.O_RDONLY) > 2,
}
with open(sys.argv[1], "w") as file:
    json.dump(told, file)
print("said")
"""


@pytest.fixture
def settled(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Starts a process in the state that some code makes, and answers what it found once it had settled."""

    def settled(spoil: str) -> dict[str, Any]:
        path = tmp_path / "told"
        # What outlives exec is spoiled before exec. Not in a forked child of this process, whose libraries may have
        # threads that do not survive it.
        spoiled = f"import os, resource, signal, sys\n{spoil}\nos.execv(sys.executable, sys.argv[1:])"
        process = subprocess.run(
            [sys.executable, "-c", spoiled, sys.executable, "-c", _TOLD, str(path)],
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
        )
        told: dict[str, Any] = json.loads(path.read_text())
        told["said"] = process.stdout
        return told

    return settled


def test_ignored_sigchld_is_given_back_its_default_action(settled: Any) -> None:
    told = settled("signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    assert (told["exit"], signal.SIGCHLD in told["ignored"]) == (7, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1])
def test_no_signal_is_ignored_for_no_reason(settled: Any, number: signal.Signals) -> None:
    assert number not in settled(f"signal.signal({int(number)}, signal.SIG_IGN)")["ignored"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_signals_that_nohup_and_shells_ignore_stay_ignored(settled: Any, number: signal.Signals) -> None:
    assert number in settled(f"signal.signal({int(number)}, signal.SIG_IGN)")["ignored"]


def test_no_signal_is_blocked(settled: Any) -> None:
    assert settled("signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())")["blocked"] == []


def test_timer_that_was_set_before_does_not_ring(settled: Any) -> None:
    assert settled("signal.alarm(1000)")["timer"] == 0.0


def test_a_timer_of_the_process_itself_goes_on() -> None:
    handler = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1000)
        process_state._stop_timers()
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@pytest.mark.parametrize(("mask", "wanted"), [(0o777, 0o077), (0, 0o002), (0o022, 0o022), (0o007, 0o007)])
def test_umask_lets_the_owner_do_all_and_others_never_write(settled: Any, mask: int, wanted: int) -> None:
    told = settled(f"os.umask({mask})")
    # To ask for it changes nothing.
    assert (told["umask"], told["mask"]) == (wanted, wanted)


def test_open_files_are_raised_to_the_hard_limit_within_reason(settled: Any) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = settled(f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))")
    assert told["files"] == [OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES), hard]


def test_a_higher_limit_of_open_files_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    for both in ((OPEN_FILES + 1, OPEN_FILES + 2), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, both=both: both)
        process_state._raise_open_files()
    assert limits == []


def test_closed_standard_streams_are_open_afterwards_and_no_file_gets_their_numbers(settled: Any) -> None:
    told = settled("for descriptor in (0, 1, 2): os.close(descriptor)")
    assert (told["streams"], told["next"], told["said"]) == ([True] * 6, True, b"")


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_programs_that_are_started_inherit_a_standard_stream_that_was_closed(settled: Any, descriptor: int) -> None:
    assert settled(f"os.close({descriptor})")["inherited"] == 0


def test_open_standard_streams_are_left_alone(settled: Any) -> None:
    assert settled("")["said"] == b"said\n"
