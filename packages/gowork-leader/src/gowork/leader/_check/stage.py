"""Where scenarios take place: the scripted leader, the worker's process where the check starts it, and the findings."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from gowork.leader._check.rules import Findings
from gowork.leader._check.scripted import ScriptedLeader, Stream
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.worker.v1 import session_pb2 as pb

#: What the worker is told to go by, in milliseconds: short, so that a check takes seconds.
LEASE_MS = 3_000
HEARTBEAT_MS = 500
RECONNECT_GRACE_MS = 1_000
#: The term of the leader that is played.
TERM = 7
#: Stands for the leader's address in the worker's command.
PLACEHOLDER = "{leader}"
#: Seconds that the worker's process has to end after SIGTERM.
_STOP_SECONDS = 10.0


class SceneOver(Exception):
    """Nothing more can be tried in this scene; the text says why."""


@dataclass(frozen=True, slots=True)
class Script:
    """What the scenarios go by."""

    #: Names of handlers that the worker has: one that returns its payload, and one that waits for as many
    #: milliseconds as its payload says, and can be stopped. The second may be lacking.
    echo: str = "echo"
    sleep: str = "sleep"
    #: Seconds that the worker has for each thing that it must do.
    patience: float = 10.0
    #: Seconds that it has to come at first.
    first_patience: float = 60.0


class Stage:
    """One check of one worker."""

    def __init__(self, leader: ScriptedLeader, script: Script, command: Sequence[str]) -> None:
        """Args:
        leader: it serves.
        script: what the scenarios go by.
        command: starts the worker; empty when somebody else does.
        """
        self.leader = leader
        self.script = script
        self.findings = Findings()
        self.process: asyncio.subprocess.Process | None = None
        self._command = [part.replace(PLACEHOLDER, leader.address) for part in command]
        self._fences = itertools.count(1)
        #: Ids are not those of an earlier check, which the worker may remember.
        self._prefix = secrets.token_hex(3)
        self._patience = max(script.first_patience, script.patience)
        #: Streams of this scene.
        self._streams: list[Stream] = []
        #: Whether the worker has the handler for tasks that take long; True until it has introduced itself.
        self.sleeps = True

    async def session(self, *, term: int = TERM) -> Stream:
        """A new session: an older one is ended, the worker comes back and is welcomed.

        What it lists as held, which earlier scenes have left, is released or acknowledged.

        Raises:
            SceneOver: when it does not come.
        """
        stream = await self.arrival()
        self.welcome(stream, term=term)
        left = [held.fence for held in stream.hello.held]
        if left:
            stream.send(pb.ConnectResponse(released=left))
        return stream

    async def arrival(self) -> Stream:
        """The worker's next stream, with its Hello and without a Welcome; those that are open are ended.

        Raises:
            SceneOver: when none comes.
        """
        for stream in list(self.leader.open):
            stream.end(grpc.StatusCode.UNAVAILABLE, "the leader of the check breaks the stream")
            await stream.until(lambda stream=stream: stream.over, self.script.patience)  # type: ignore[misc]
        return await self.next_stream()

    async def next_stream(self) -> Stream:
        """The next stream with its Hello; see arrival."""
        await self._run_worker()
        waiting = asyncio.create_task(self.leader.stream(self._patience), name="the next stream")
        ending = asyncio.create_task(self._ended(), name="the worker's end")
        await asyncio.wait([waiting, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not waiting.done():
            waiting.cancel()
        stream = await asyncio.gather(waiting, return_exceptions=True)
        for rule, fault in self.leader.faults:
            self.findings.failed(rule, fault)
        if not isinstance(stream[0], Stream):
            code = None if self.process is None else self.process.returncode
            if code is not None:
                raise SceneOver(f"the worker ended, with exit code {code}")
            raise SceneOver(f"no stream came within {self._patience:g} s")
        self._patience = self.script.patience
        self.findings.passed("hello-first")
        self.findings.passed("hello-valid")
        self._streams.append(stream[0])
        self.sleeps = any(handler.name == self.script.sleep for handler in stream[0].hello.handlers)
        return stream[0]

    def look_at_streams(self) -> None:
        """Says at the end of a scene whether any frame of it was one that no leader takes."""
        streams, self._streams = self._streams, []
        for stream in streams:
            for fault in stream.faults:
                self.findings.failed("frames-valid", fault)
        if streams:
            self.findings.passed("frames-valid")

    def welcome(self, stream: Stream, *, term: int = TERM) -> None:
        """Opens the session."""
        stream.send(
            pb.ConnectResponse(
                welcome=pb.Welcome(
                    term=term, lease_ms=LEASE_MS, heartbeat_ms=HEARTBEAT_MS, reconnect_grace_ms=RECONNECT_GRACE_MS
                )
            )
        )

    def echo(self, payload: str) -> pb.Grant:
        """A task that returns its payload."""
        return self._grant(self.script.echo, payload)

    def sleep(self, milliseconds: int) -> pb.Grant:
        """A task that takes so long."""
        return self._grant(self.script.sleep, str(milliseconds))

    def _grant(self, handler: str, payload: str) -> pb.Grant:
        fence = next(self._fences)
        task = scheduler_pb2.Task(id=f"check-{self._prefix}-{fence}", handler=handler, payload=payload)
        return pb.Grant(fence=fence, id=task.id, attempt=1, task=task.SerializeToString())

    async def need_room(self, stream: Stream, rule: str = "") -> None:
        """Waits until the worker's credit has room for a grant.

        Args:
            stream: its session.
            rule: the one that is broken when it has none; empty when that is not what the scene is about.

        Raises:
            SceneOver: when it has none.
        """
        if not await stream.until(lambda: stream.room > 0, self.script.patience):
            count = f"is {stream.credit[-1]}" if stream.credit else "was not given"
            why = f"after {stream.granted} grants in this session the credit {count}"
            if rule:
                self.findings.failed(rule, why)
            raise SceneOver(why)

    # The worker's process

    async def _run_worker(self) -> None:
        if not self._command or (self.process is not None and self.process.returncode is None):
            return
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                # What it prints must not get into what the check prints.
                stdout=sys.__stderr__.fileno() if sys.__stderr__ is not None else asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise SceneOver(f"{self._command[0]!r} can't be started: {error}") from None

    async def _ended(self) -> None:
        if self.process is None:
            await asyncio.Event().wait()
        else:
            await self.process.wait()

    async def stop_worker(self) -> None:
        """Ends the worker's process, if the check has started one, with all that it has started."""
        process = self.process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # The whole group has ended.
        await process.wait()
