"""Child processes that never outlive this one.

A warden, a small shell process, holds the read end of a pipe; when the write end closes, however its owner died, it
kills the children that are left. In good order they are asked to stop first, and killed only when their time is up.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from gowork.base.beginnings import give_up_standard_output

#: Reads process ids, one to a line; at the end of file it kills them.
_WARDEN_SCRIPT = """\
children=
while read -r child; do children="$children $child"; done
[ -z "$children" ] || kill -KILL $children 2>/dev/null
exit 0
"""
#: How much of a child's output is passed on at once.
_CHUNK_BYTES = 65536
_LINE_BYTES_MAX = 1 << 20


class ChildFailed(Exception):
    """A child ended, or stayed silent, before it was ready."""


class Child:
    """A process that says in a line of JSON on its output that it is ready; the rest of the output is passed on."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, output: asyncio.StreamReader) -> None:
        #: What to call it.
        self.name = name
        self._process = process
        self._output = output

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.returncode

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ready(self, key: str, timeout: float) -> dict[str, Any]:
        """What it says when it is ready: the first line that is a JSON object with this key. Lines before that are
        passed on.

        Raises:
            ChildFailed: when it ends before, or when that takes longer than the timeout, in seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while text := await self._output.readline():
                    facts = _object(text)
                    if key in facts:
                        return facts
                    _write(text)
        except TimeoutError:
            raise ChildFailed(f"{self.name} was not ready within {timeout:.0f} s") from None
        raise ChildFailed(f"{self.name} could not start; what it wrote above says why")

    async def pass_on(self) -> None:
        """Copies the rest of its standard output to this process's, until it ends. Unread, the pipe would block it."""
        while chunk := await self._output.read(_CHUNK_BYTES):
            _write(chunk)

    async def ended(self) -> Self:
        """Itself, once it has ended."""
        await self._process.wait()
        return self

    async def stop(self, grace: float) -> None:
        """Asks it to stop, and kills it after that many seconds."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """Ends it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            try:
                # Not by the process object: it would look first whether the child has ended, and take its exit code
                # away from the loop, which then warns and reports another one.
                os.kill(self._process.pid, number)
            except ProcessLookupError:
                # It has ended already.
                pass


class Nursery:
    """Starts children, and kills those that still run at its exit or when this process dies. A context manager."""

    def __init__(self) -> None:
        #: In the order in which they were started.
        self.children: list[Child] = []
        self._pumps = asyncio.TaskGroup()
        reader, writer = os.pipe()
        self._warden_input = open(writer, "wb", buffering=0)  # noqa: SIM115 - closed when the nursery is left
        try:
            self._warden = subprocess.Popen(
                ["/bin/sh", "-c", _WARDEN_SCRIPT],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # A Ctrl-C must not reach it.
                start_new_session=True,
            )
        finally:
            os.close(reader)

    async def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Starts `python ARGUMENTS…`, in a process group of its own, so that a Ctrl-C reaches only this process."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # Without the working directory on the module path, where a file gowork.py could stand in for the package.
            "-P",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
            process_group=0,
        )
        self._warden_input.write(b"%d\n" % process.pid)
        if process.stdout is None:
            raise ChildFailed(f"{name} has no output")
        child = Child(name, process, process.stdout)
        self.children.append(child)
        return child

    def pass_on(self, child: Child) -> None:
        """Copies the rest of its output to this process's, for as long as it lives."""
        self._pumps.create_task(child.pass_on())

    async def __aenter__(self) -> Self:
        await self._pumps.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.children:
            child.kill()
        for child in self.children:
            await child.ended()
        # Their output ends with them. What went wrong in the body is not the pumps' business: they need not be
        # cancelled for it.
        await self._pumps.__aexit__(None, None, None)
        # Before its pipe closes: the numbers that it holds may be another's by then.
        self._warden.kill()
        self._warden.wait()
        self._warden_input.close()


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object in a line; an empty one when there is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _write(output: bytes) -> None:
    try:
        sys.stdout.buffer.write(output)
        sys.stdout.flush()
    except OSError:
        # Nobody reads it any more, or the disk is full. The cluster goes on.
        give_up_standard_output()
