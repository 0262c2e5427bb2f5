"""What every test folder of the repository shares.

Tests that need a program say so by `@pytest.mark.tool("name")`, and no test leaves a process behind.
"""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

#: The environment variable that marks processes that tests started; its value names the run of the tests.
MARK = "PYTEST_STARTED_BY"
ItemT = TypeVar("ItemT")


def pytest_configure() -> None:
    """Makes Ctrl-C end the processes that tests start, even when the tests run in the background.

    A shell without job control has its background commands ignore SIGINT, and their children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many tests `-n auto` runs at once: three for two processors, because a third of the time a test waits."""
    return max(2, len(os.sched_getaffinity(0)) * 3 // 2)


#: Folders of tests of which each takes long. Every process begins with its share of them, so that none runs such a test
#: at the end while the others have nothing left to do.
LONG = ("tests/sim", "tests/faults", "tests/explore", "tests/costs", "tests/floods")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deals the long tests to the processes of xdist, which divides the tests in their order."""
    root = Path(__file__).parent
    long = tuple(str(root / folder) for folder in LONG)
    hands = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = dealt(items, lambda item: str(item.path).startswith(long), hands)


def dealt(items: Sequence[ItemT], is_long: Callable[[ItemT], bool], hands: int) -> list[ItemT]:
    """Returns the items in an order of which each `hands`-th part begins with its share of the long ones."""
    long, others = [item for item in items if is_long(item)], iter([item for item in items if not is_long(item)])
    ordered: list[ItemT] = []
    for hand in range(hands):
        first = long[hand::hands]
        size = (len(items) - len(ordered)) // (hands - hand)
        ordered += [*first, *itertools.islice(others, max(0, size - len(first)))]
    return ordered


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose program is missing, with the reason. In CI it fails, because CI must check everything."""
    names = [name for marker in item.iter_markers("tool") for name in marker.args]
    missing = [name for name in names if shutil.which(name) is None]
    if not missing:
        return
    reason = f"not on PATH: {', '.join(missing)}; CONTRIBUTING.md tells how to install it"
    if os.environ.get("CI"):
        pytest.fail(f"CI must not skip this test. {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind() -> Iterator[None]:
    """Fails when a process that a test started is still there after the last test.

    It finds them by a variable that they inherit, so it finds orphans too.
    """
    mark = f"{os.getpid()}-{time.time_ns()}"
    os.environ[MARK] = mark
    yield
    left = [process for process in psutil.process_iter() if process.pid != os.getpid() and marked(process, mark)]
    _, alive = psutil.wait_procs(left, timeout=10)
    told = [f"{process.pid} {shlex.join(process.cmdline())}" for process in alive]
    for process in alive:
        process.kill()
    assert told == []


@pytest.fixture(scope="session", autouse=True)
def processes_keep_their_files_here(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps the files and sockets of processes that tests start out of the user's directories.

    No test has a service manager.
    """
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    os.environ["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("run"))
    for name in ("RUNTIME_DIRECTORY", "NOTIFY_SOCKET"):
        os.environ.pop(name, None)


def marked(process: psutil.Process, mark: str) -> bool:
    """Whether a test of this run started the process, directly or through other processes."""
    try:
        # multiprocessing keeps its tracker until the interpreter ends.
        return process.environ().get(MARK) == mark and "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:
        return False
