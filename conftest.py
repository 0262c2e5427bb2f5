"""What every test folder of the repository shares.

Tests that need a program say so by `@pytest.mark.tool("name")`, and no test leaves a process behind.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

#: The variable by which processes that tests started are known.
MARK = "PYTEST_STARTED_BY"


def pytest_configure() -> None:
    """Gives the processes that tests start a Ctrl-C that ends them, also where the tests run in the background.

    A shell without job control has its background commands ignore SIGINT, and whoever they start would do so as well.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose program is missing, with the reason; in CI it fails, so that nothing goes unchecked there."""
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

    Processes are known by a variable that they inherit, so that orphans are found too.
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
def workers_keep_their_state_here(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Workers that tests start by name keep the files by which they know their predecessors out of the user's own."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


def marked(process: psutil.Process, mark: str) -> bool:
    """Whether a test of this run started it, in itself or through others."""
    try:
        # multiprocessing keeps its tracker until the interpreter ends.
        return process.environ().get(MARK) == mark and "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:
        return False
