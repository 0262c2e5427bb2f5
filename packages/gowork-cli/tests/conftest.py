"""A real cluster for the command line's tests: `gowork up`, as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gowork.cli.root import cli

_HANDLERS = """
import pathlib

from gowork.worker import Context, handler


@handler("double")
def double(ctx: Context, number: int) -> int:
    return 2 * number


@handler("reverse")
def reverse(ctx: Context, data: bytes) -> bytes:
    return data[::-1]


@handler("fail")
def fail(ctx: Context, text: str) -> None:
    raise RuntimeError("[red]" + text)


@handler("shout")
def shout(ctx: Context, text: str) -> None:
    print(text, flush=True)
"""

#: The options that give no part of a cluster a fixed port.
FREE_PORTS = (
    *("--cluster-listen", "127.0.0.1:0"),
    *("--scheduler-listen", "127.0.0.1:0"),
    *("--http-listen", "127.0.0.1:0"),
    *("--workers-http-port", "0"),
)

Run = Callable[..., Result]


class Up:
    """A running `gowork up`."""

    def __init__(self, process: subprocess.Popen[str], addresses: dict[str, Any]) -> None:
        self.process = process
        self.addresses = addresses

    @property
    def scheduler(self) -> str:
        return str(self.addresses["scheduler"])

    def told(self, words: str) -> str:
        """The next line on standard error that says this. A slow machine has others before it."""
        assert self.process.stderr is not None
        while words not in (line := self.process.stderr.readline()):
            assert line, "the cluster has ended"
        return line

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Its exit code after this signal."""
        self.process.send_signal(number)
        return self.process.wait()


@contextmanager
def start_up(directory: Path, *options: str, **variables: str) -> Iterator[Up]:
    """Runs `gowork up` in this directory, with its tasks kept there, and of gowork's variables with these alone."""
    (directory / "cli_test_handlers.py").write_text(_HANDLERS)
    command = [sys.executable, "-m", "gowork.cli", "up", *FREE_PORTS, "--data-dir", str(directory)]
    with subprocess.Popen(
        [*command, "--import", "cli_test_handlers", "--print-addresses", *options],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("GOWORK_")} | variables,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield Up(process, json.loads(line))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A leader and one worker with a few handlers."""
    with start_up(tmp_path_factory.mktemp("up"), "--slots", "8") as up:
        yield up


@pytest.fixture
def gowork(cluster: Up) -> Run:
    """Runs a command line against the cluster."""

    def run(*arguments: str, input: str | bytes | None = None) -> Result:
        return invoke(["--leader", cluster.scheduler, *arguments], input=input)

    return run


def invoke(arguments: Sequence[str], input: str | bytes | None = None) -> Result:
    """Runs a command line in this process; an error that is not turned into an exit code is raised."""
    result = CliRunner(env={"GOWORK_LEADER": None, "GOWORK_OUTPUT": None}).invoke(cli, arguments, input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(name="invoke")
def invoke_fixture() -> Run:
    return invoke


@pytest.fixture
def up_in() -> Callable[..., Any]:
    return start_up


@pytest.fixture
def free_address() -> Iterator[str]:
    """An address where nothing listens: it is bound meanwhile, so that nobody else comes to listen there."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


@pytest.fixture
def taken_address() -> Iterator[str]:
    """An address where somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield f"127.0.0.1:{taken.getsockname()[1]}"
