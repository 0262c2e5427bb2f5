"""How processes begin: streams that can be used, and no traceback when they are interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from gowork.base.beginnings import EXIT_INTERRUPTED, end_interrupted, end_on_interrupt, ending_on_interrupt

START = "from gowork.base.beginnings import *; import os, signal, sys"


def run(code: str, shell: str = "exec {python} -c {code}") -> subprocess.CompletedProcess[str]:
    words = shell.format(python='"$0"', code='"$1"')
    return subprocess.run(["/bin/sh", "-c", words, sys.executable, f"{START}\n{code}"], capture_output=True, text=True)


@pytest.mark.parametrize(
    "body",
    [
        "with ending_on_interrupt():\n    os.kill(os.getpid(), signal.SIGINT)\n    signal.pause()",
        "end_on_interrupt()\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()",
    ],
)
def test_an_interrupt_ends_the_process_with_130_and_without_a_word(body: str) -> None:
    done = run(body)
    assert (done.returncode, done.stdout, done.stderr) == (EXIT_INTERRUPTED, "", "")


def test_an_interrupt_is_raised_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ending_on_interrupt():
            assert signal.getsignal(signal.SIGINT) is end_interrupted
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ending_on_interrupt():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        end_on_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_opened_next_takes_no_number_of_a_standard_stream() -> None:
    code = "open_standard_streams(); n = os.open('/dev/null', 0); os._exit(n)"
    assert run(code, "exec {python} -c {code} <&- >&- 2>&-").returncode > 2


def test_writing_to_a_standard_output_that_was_closed_fails() -> None:
    code = "open_standard_streams()\ntry: print('x', flush=True)\nexcept OSError as e: os._exit(e.errno)"
    assert run(code, "exec {python} -c {code} >&-").returncode == 9


def test_open_streams_are_left_alone() -> None:
    code = "streams = [sys.stdin, sys.stdout, sys.stderr]; open_standard_streams()\n"
    code += "print(streams == [sys.stdin, sys.stdout, sys.stderr])"
    assert run(code).stdout == "True\n"
