"""Child processes that never outlive this one.

A warden, a small shell process, reads from a pipe. When the pipe closes, however this process ended, the warden kills
the children that are left. When this process ends normally, it asks the children to stop, and kills those that have not
stopped after their grace.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from gowork.base.beginnings import give_up_standard_output

#: Reads process ids, one on each line. At the end of the file it kills these processes, except those that came again
#: with a minus: they have ended, and their ids may be others' by now.
_WARDEN_SCRIPT = """\
children=
while read -r child; do
    case $child in
    -*) left=
        for each in $children; do [ "$each" = "${child#-}" ] || left="$left $each"; done
        children=$left ;;
    *) children="$children $child" ;;
    esac
done
[ -z "$children" ] || kill -KILL $children 2>/dev/null
exit 0
"""
#: How many bytes of a child's output are passed on at once.
_CHUNK_BYTES = 65536
_LINE_BYTES_MAX = 1 << 20


class ChildFailed(Exception):
    """A child ended, or stayed silent, before it was ready."""


class Child:
    """A process that writes a line of JSON when it is ready. The rest of its output is passed on."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, output: asyncio.StreamReader) -> None:
        #: The name of the process in messages.
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
        """Waits until the child is ready. Returns its first line that is a JSON object with this key.

        Lines before that are passed on.

        Raises:
            ChildFailed: when the child ends before it is ready, or is not ready after `timeout` seconds.
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
        """Copies the rest of the child's output to this process's. Otherwise a full pipe would block the child."""
        while chunk := await self._output.read(_CHUNK_BYTES):
            _write(chunk)

    async def lines(self) -> list[dict[str, Any]]:
        """Waits until the child has ended, and returns the lines that are JSON objects. Others are passed on."""
        found = []
        while text := await self._output.readline():
            if facts := _object(text):
                found.append(facts)
            else:
                _write(text)
        await self._process.wait()
        return found

    async def ended(self) -> Self:
        """Waits until the child has ended, and returns it."""
        await self._process.wait()
        return self

    async def stop(self, grace: float) -> None:
        """Asks the child to stop, and kills it if it has not ended after `grace` seconds."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """Kills the child at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            try:
                # The process object's own method must not be used: it first checks whether the child has ended, and so
                # takes its exit code away from the event loop, which then warns and reports another code.
                os.kill(self._process.pid, number)
            except ProcessLookupError:
                # The child has ended already.
                pass


class Nursery:
    """A context manager that starts children, and kills those that still run at its exit, or when this process dies."""

    def __init__(self) -> None:
        #: All children, in the order in which they were started.
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
                # Ctrl-C must not reach it.
                start_new_session=True,
            )
        finally:
            os.close(reader)

    async def start(self, name: str, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> Child:
        """Starts `python ARGUMENTS…`, in a process group of its own, so that Ctrl-C reaches only this process.

        Args:
            name: the name of the process in messages.
            arguments: what follows `python`.
            variables: environment variables that it has besides those of this process.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # This keeps the working directory off the module path, where a file gowork.py could hide the package.
            "-P",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
            process_group=0,
            env={**os.environ, **(variables or {})},
        )
        self._warden_input.write(b"%d\n" % process.pid)
        if process.stdout is None:
            raise ChildFailed(f"{name} has no output")
        child = Child(name, process, process.stdout)
        self.children.append(child)
        return child

    def forget(self, child: Child) -> None:
        """Has a child that has ended leave the nursery."""
        self.children.remove(child)
        self._warden_input.write(b"-%d\n" % child.pid)

    def pass_on(self, child: Child) -> None:
        """Copies the rest of a child's output to this process's, for as long as the child lives."""
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
        # The copying ends with the children's output. It need not be cancelled for an error of the body.
        await self._pumps.__aexit__(None, None, None)
        # The warden is killed before its pipe closes, because the process ids that it has may be others' by now.
        self._warden.kill()
        self._warden.wait()
        self._warden_input.close()


def _object(text: bytes) -> dict[str, Any]:
    """Returns the JSON object in a line; an empty one if the line is none."""
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
        # Nobody reads standard output any more, or the disk is full. The cluster goes on.
        give_up_standard_output()
