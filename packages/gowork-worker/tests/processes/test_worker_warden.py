from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gowork.worker.processes import Warden, end_group


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group of its own."""
    with subprocess.Popen(["tail", "-f", "/dev/null"], stdout=subprocess.DEVNULL, start_new_session=True) as process:
        yield process
        process.kill()


def test_group_ends_with_its_warden(sleeper: subprocess.Popen[bytes]) -> None:
    with Warden() as warden:
        warden.guard(sleeper.pid)
    assert sleeper.wait(120) == -signal.SIGKILL


def test_released_group_is_let_be(sleeper: subprocess.Popen[bytes], process_exists: Callable[[int], bool]) -> None:
    with Warden() as warden:
        warden.guard(sleeper.pid)
        warden.release(sleeper.pid)
    assert process_exists(sleeper.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_to_all_of_a_worker_does_not_end_the_warden(
    sleeper: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    with Warden() as warden:
        warden.guard(sleeper.pid)
        warden.release(sleeper.pid)
        # Once it has read these lines it has set its traps.
        waiting = array.array("i", [1])
        while waiting[0]:
            fcntl.ioctl(warden.descriptor, termios.FIONREAD, waiting)
        os.kill(warden._process.pid, number)
        warden.guard(sleeper.pid)
    assert sleeper.wait(120) == -signal.SIGKILL


def test_warden_that_was_killed_is_missed_but_not_needed(caplog: Any, sleeper: subprocess.Popen[bytes]) -> None:
    warden = Warden()
    warden._process.kill()
    warden._process.wait()
    warden.guard(sleeper.pid)
    assert "the warden is gone" in caplog.text
    warden.release(sleeper.pid)
    warden.close()
    # Once, or each isolated task would leave two lines.
    assert caplog.text.count("the warden is gone") == 1


def test_end_of_a_group_that_is_gone_is_no_error() -> None:
    process = subprocess.Popen(["true"], start_new_session=True)
    process.wait()
    end_group(process.pid)
