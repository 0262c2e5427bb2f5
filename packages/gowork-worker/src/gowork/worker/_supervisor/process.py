"""A runner in a process of its own: spawned, fed through a socket pair, watched and reaped."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import msgspec
from google.protobuf.message import DecodeError

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner import messages, pipe
from gowork.worker._runner.table import Running, SlotTable, make_shared
from gowork.worker._supervisor.output import Output, Outputs
from gowork.worker._supervisor.runner import Owner, Runner
from gowork.worker.processes import Warden, end_group

#: Seconds between pings, and without an answer until a runner counts as blocked.
PING_INTERVAL = 1.0
BLOCKED_AFTER = 3.0
#: Ticks of a blocked runner's loop that the supervisor sees, one a second, until the runner counts as deaf: it runs,
#: but what is sent to it goes elsewhere.
DEAF_TICKS = 15
#: Seconds that a runner may live on after the end of its pipe, and that one may take to end which was told to stop.
PIPE_END_GRACE = 1.0
STOP_GRACE = 5.0
#: Seconds to wait for the end of a dead runner's pipe. Its wardens hold it open until they have ended what they guard;
#: a child that it forked may hold it for longer.
_PIPE_END_TIMEOUT = 1.0


class ProcessRunner(Runner):
    """Make it, then await `run`, which lasts as long as the process."""

    def __init__(
        self,
        name: str,
        slots: int,
        owner: Owner,
        *,
        setup: Callable[[int, int], messages.Setup],
        spare: int = 0,
        warden: Warden | None,
        lock_descriptor: int | None = None,
        alone: bool = False,
        blocked_timeout: float = math.inf,
        outputs: Outputs | None = None,
        variables: dict[str, str] | None = None,
    ) -> None:
        """Args:
        name: for logs.
        slots: how many tasks it runs at once.
        owner: told what it says.
        setup: gives the first message, for a number of slots and a number to spare.
        spare: how many more tasks it may run while as many wait for others.
        warden: guards its process group; None where there is none.
        lock_descriptor: inherited by it; None where there is none.
        alone: it runs isolated tasks, one at a time.
        blocked_timeout: seconds that its loop may not answer.
        outputs: take what it prints; None lets that go.
        variables: what its environment has besides this process' own.
        """
        super().__init__(name, slots, owner, spare=spare, alone=alone)
        self._setup = setup
        self._warden = warden
        self._lock_descriptor = lock_descriptor
        self._blocked_timeout = blocked_timeout
        self.variables = variables or {}
        self._process: asyncio.subprocess.Process | None = None
        self._pipe: _Pipe | None = None
        #: Shared with the process once that is started.
        self._table = SlotTable.private(slots, spare)
        self._outputs = outputs
        self._ping_number = 0
        self._ping_sent_at: float | None = None
        self._pinged_at = 0.0
        #: The last tick that was seen, and how many since the ping.
        self._ticks = self._ticked = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def run(self) -> str:
        """Runs the process to its end.

        Returns:
            How it ended, in words.
        """
        with contextlib.ExitStack() as stack:
            ours, output = await self._spawn(stack)
            stack.pop_all()
        return await self._watch_over(ours, output)

    async def _spawn(self, stack: contextlib.ExitStack) -> tuple[socket.socket, Output | None]:
        """Starts the process.

        Args:
            stack: closes what belongs to it, unless it was started.

        Raises:
            OSError: when there are no descriptors, processes or memory to be had.
        """
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        lock = [] if self._lock_descriptor is None else [self._lock_descriptor]
        # These are the process' own afterwards.
        with contextlib.ExitStack() as handed, theirs:
            self._table, table = make_shared(self.slots, self.spare)
            handed.callback(os.close, table)
            output, printed = None, asyncio.subprocess.DEVNULL
            if self._outputs is not None:
                output, printed = await self._outputs.open()
                handed.callback(os.close, printed)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                # Without the working directory on the module path, where a file could stand in for a library's module.
                "-P",
                "-m",
                "gowork.worker._runner",
                str(theirs.fileno()),
                str(table),
                str(os.getpid()),
                *map(str, lock),
                pass_fds=(theirs.fileno(), table, *lock),
                env={**os.environ, **self.variables} if self.variables else None,
                stdin=asyncio.subprocess.DEVNULL,
                # Neither of the worker's own: what handlers print must not get into what the worker itself says on
                # standard output, and must not wait for whoever reads its standard error.
                stdout=printed,
                stderr=printed,
                # A group of its own, to be ended with all children; and the terminal's Ctrl-C is for the supervisor.
                start_new_session=True,
            )
        return ours, output

    async def _watch_over(self, ours: socket.socket, output: Output | None) -> str:
        assert self._process is not None
        pid = self._process.pid
        try:
            if self._warden is not None:
                self._warden.guard(pid)
            _, self._pipe = await asyncio.get_running_loop().create_connection(lambda: _Pipe(self), sock=ours)
            self.send(self._setup(self.slots, self.spare))
            oom_kills = _oom_kills()
            code = await self._process.wait()
        finally:
            # Also when this task is cancelled: neither the process nor a child of it may be left.
            end_group(pid)
            if self._process.returncode is None:
                await asyncio.shield(self._process.wait())
            if self._warden is not None:
                self._warden.release(pid)
            self.is_ready = False
            if self._pipe is not None:
                await self._pipe.drained(_PIPE_END_TIMEOUT)
            if output is not None:
                await output.drained()
        reason = self.fault or describe_exit(code)
        if code == -signal.SIGKILL and not (self.ended_on_purpose or self.fault) and _oom_kills() > oom_kills:
            reason += "; the kernel ran out of memory and ended processes meanwhile"
        return reason

    def send_grants(self, grants: list[session.Grant]) -> None:
        self._write(pipe.WORK, session.ConnectResponse(grants=grants).SerializeToString())

    def send_cancel(self, fences: list[int]) -> None:
        self._write(pipe.WORK, session.ConnectResponse(cancelled=fences).SerializeToString())

    def send(self, message: messages.ToRunner) -> None:
        self._write(pipe.CONTROL, messages.encode(message))

    def check_pulse(self, now: float) -> None:
        if not self.is_ready:
            return
        if self._ping_sent_at is not None:
            self.is_blocked = now - self._ping_sent_at > BLOCKED_AFTER
            if self.is_blocked and (ticks := self._table.ticks) != self._ticks:
                self._ticks = ticks
                self._ticked += 1
        elif now - self._pinged_at >= PING_INTERVAL:
            self._ping_number += 1
            self._ping_sent_at = self._pinged_at = now
            self._ticked = 0
            self._write(pipe.WORK, session.ConnectResponse(pings=[self._ping_number]).SerializeToString())

    def ailment(self, now: float) -> str:
        if self._process is None or self._process.returncode is not None:
            return ""
        if self._pipe is not None and self._pipe.ended_at is not None and now - self._pipe.ended_at > PIPE_END_GRACE:
            return "the runner closed its pipe and went on"
        if self.was_stopped and now - self.stopped_at > STOP_GRACE:
            return "the runner did not end though it was told to stop"
        if not self.is_blocked or self._ping_sent_at is None:
            return ""
        if self._ticked >= DEAF_TICKS:
            return "the runner did not hear its supervisor, though its loop ticked"
        if now - self._ping_sent_at <= self._blocked_timeout:
            return ""
        # A task that states how long it may take has that long, whoever it is that blocks: its limit ends the runner.
        clock = time.monotonic_ns()
        if any(row.kill_at_ns > clock for row in self._table.running()):
            return ""
        return f"the runner's loop did not answer for {self._blocked_timeout:g} s: see --blocked-timeout"

    def running(self) -> list[Running]:
        return self._table.running()

    def begun(self) -> set[int]:
        return self._table.begun()

    def kill(self) -> bool:
        if self._process is not None and self._process.returncode is None:
            self.is_ready = False
            end_group(self._process.pid)
        return True

    def close(self) -> None:
        """Gives the shared memory back, once what ran is known."""
        self._table.close()

    def _write(self, kind: int, body: bytes) -> None:
        if self._pipe is not None:
            self._pipe.write(pipe.frame(kind, body))

    def take(self, kind: int, body: memoryview) -> None:
        """Takes a frame from the runner."""
        if kind == pipe.WORK:
            request = session.ConnectRequest.FromString(bytes(body))
            if request.reports:
                self.owner.runner_reported(self, list(request.reports), len(body))
            if request.progress:
                self.owner.runner_progressed(request.progress)
            if request.pongs and self._ping_sent_at is not None:
                self.owner.runner_answered(self, asyncio.get_running_loop().time() - self._ping_sent_at)
                self._ping_sent_at = None
                self.is_blocked = False
            return
        message = messages.decode_from_runner(body)
        if isinstance(message, messages.Ready):
            self.is_ready = True
            self.owner.runner_ready(self, message)
        else:
            self.owner.runner_said(self, message)


class _Pipe(asyncio.Protocol):
    def __init__(self, runner: ProcessRunner) -> None:
        self._runner = runner
        self._reader = pipe.FrameReader(runner.take)
        self._transport: asyncio.Transport | None = None
        #: When the other end was closed, on the loop's clock.
        self.ended_at: float | None = None
        self._ended = asyncio.get_running_loop().create_future()

    # asyncio.Protocol's own annotation is wider: a socket's transport reads and writes. Its class is the loop's affair:
    # uvloop's does not derive from asyncio.Transport.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except (pipe.FrameError, DecodeError, msgspec.MsgspecError) as error:
            # Handlers that write to descriptors at random are the only way to this.
            self._runner.fault = f"the runner sent what cannot be read: {error}"
            self._runner.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended_at = asyncio.get_running_loop().time()
        if not self._ended.done():
            self._ended.set_result(None)

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self, timeout: float) -> None:
        """Waits until everything that the runner sent has been read."""
        assert self._transport is not None
        await asyncio.wait([self._ended], timeout=timeout)
        self._transport.close()


def _oom_kills() -> int:
    """How many processes the kernel has killed for want of memory; 0 where it does not say."""
    try:
        with open("/proc/vmstat", encoding="ascii") as counters:
            return next((int(line.split()[1]) for line in counters if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code == messages.DESCRIPTORS_LOST_EXIT:
        return "a handler closed descriptors that are the runner's own"
    if code >= 0:
        return f"the runner exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"the runner was killed by signal {-code} ({name})"
