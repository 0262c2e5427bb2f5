"""The supervisor: one object on one loop, around the desk. It feeds the desk with what leader, runners and the program
around the worker say, and has done what the desk answers.

It decides nothing, imports no plugin and runs no handler, so that nothing a handler does keeps it from answering the
leader.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import assert_never

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.options import Options
from gowork.worker._desk.desk import Desk
from gowork.worker._desk.events import (
    CloseBegun,
    CloseForced,
    CutOff,
    DrainBegun,
    Event,
    FrameReceived,
    GivenUp,
    HandBackBegun,
    HandBackForced,
    LeaseLost,
    LeaveBegun,
    SessionStarted,
)
from gowork.worker._desk.instructions import BeginDrain, ForFleet, ForNotes, Instruction, LearnHandlers, Speak
from gowork.worker._desk.runner import RunnerId
from gowork.worker._fleet.fleet import Fleet
from gowork.worker._runner import messages
from gowork.worker._supervisor.instances import InstanceLocks
from gowork.worker._supervisor.measures import Measures
from gowork.worker._supervisor.notes import Notes
from gowork.worker._supervisor.slot_states import slot_states

logger = logging.getLogger("gowork.worker")

#: Seconds between two looks at the runners, while tasks are held and while none are.
INTERVAL = 0.05
IDLE_INTERVAL = 0.25
#: Seconds that runners have to stop what they are told to interrupt, before they are ended; and then to be gone.
_INTERRUPT_GRACE = 1.0
#: Seconds that runners have to leave their lifespans, and how often it is looked whether they have.
_STOP_GRACE = 5.0
_STOP_LOOK = 0.01


class Supervisor:
    """Await `run`; meanwhile a session calls the rest."""

    def __init__(self, options: Options) -> None:
        self.options = options
        #: A random id of this process.
        self.instance = secrets.token_hex(8)
        self._locks: InstanceLocks | None = None
        #: Predecessors that the leader is being told of.
        self._ended: list[str] = []
        self.measures = Measures()
        #: Set whenever there may be something to send.
        self.wake = asyncio.Event()
        #: Set once the handlers are known.
        self.ready = asyncio.Event()
        #: Called when the leader asks the worker to drain, with the budget in seconds; None leaves that to the worker.
        self.asked_to_drain: Callable[[float | None], None] = lambda budget: None
        self.desk = Desk(
            slots=options.slots,
            runners=options.runners,
            unacknowledged_bytes_max=options.unacknowledged_bytes_max,
            blocked_timeout=options.blocked_timeout,
            lent_slots_max=options.lent_slots_max,
        )
        self.fleet = Fleet(options, self.feed, self._count)
        self._notes = Notes(self.measures, options.log_failures, self._whom)
        #: What has still to be handled: carrying out an instruction may bring about the next event.
        self._events: deque[Event] = deque()
        self._is_feeding = False
        #: Set with each event.
        self._fed = asyncio.Event()

    def feed(self, event: Event) -> None:
        """Hands an event to the desk, and has done what that answers."""
        if self._is_feeding:
            self._events.append(event)
            return
        self._is_feeding = True
        now = asyncio.get_running_loop().time()
        try:
            for instruction in self.desk.handle(event, now):
                self._perform(instruction)
            while self._events:
                for instruction in self.desk.handle(self._events.popleft(), now):
                    self._perform(instruction)
        finally:
            self._is_feeding = False
            self._fed.set()

    def _perform(self, instruction: Instruction) -> None:
        match instruction:
            case Speak():
                self.wake.set()
            case ForFleet():
                self.fleet.perform(instruction)
            case ForNotes():
                self._notes.take(instruction)
            case BeginDrain(budget):
                self.asked_to_drain(budget)
            case LearnHandlers(ready):
                self._notes.learn(ready)
                self.ready.set()
            case _:
                assert_never(instruction)

    async def _until(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Waits until something holds, at most so long; whether it does."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._fed.clear()
                    await self._fed.wait()
        except TimeoutError:
            return False
        return True

    def _count(self, executed: messages.Executed) -> None:
        self.measures.executed(executed.rows)

    def _whom(self, id: RunnerId) -> Mapping[str, object]:
        runner = self.fleet.runners[id]
        return {"runner": runner.name, "runner_pid": runner.pid}

    # Life

    async def run(self) -> None:
        """Runs the runners until `close`."""
        self._lock()
        try:
            async with asyncio.TaskGroup() as group:
                fleet = group.create_task(self.fleet.run(), name="fleet")
                while not fleet.done():
                    self._look()
                    await asyncio.wait([fleet], timeout=INTERVAL if self.desk.is_busy else IDLE_INTERVAL)
        finally:
            # Threads of this process (runners=0) may run on: then only its end proves anything.
            if self._locks is not None and (self.options.runners or self.has_left):
                self._locks.close(left=self.has_left)

    def _look(self) -> None:
        self.feed(self.fleet.look(self.desk.to_look_at()))
        self._notes.look_after()

    def _lock(self) -> None:
        if self.options.state_dir is None:
            return
        try:
            self._locks = InstanceLocks(self.options.state_dir, self.options.name, self.instance)
        except OSError as error:
            reason = "no state is kept: a restart after a crash has to wait for the lease"
            logger.warning(reason, extra={"state_dir": str(self.options.state_dir), "reason": str(error)})
        else:
            self.fleet.lock_descriptor = self._locks.descriptor

    async def finish(self) -> None:
        """Takes nothing new, hands back the tasks that have not started, and waits for the running ones."""
        self.feed(DrainBegun())
        await self._until(self._is_idle)

    def _is_idle(self) -> bool:
        return not self.desk.held

    def waited_for(self, most: int) -> tuple[int, list[str]]:
        """How many tasks are held, and the first of them in words."""
        named = []
        for task in itertools.islice(self.desk.held.values(), most):
            name = tasks.Task.FromString(task.grant.task).handler or self.handlers.default_handler
            named.append(f"{task.id} ({name})")
        return len(self.desk.held), named

    async def hand_back(self, reason: str) -> None:
        """Stops the tasks that still run, and reports them as interrupted."""
        self.feed(HandBackBegun(reason))
        if await self._until(self._is_idle, _INTERRUPT_GRACE):
            return
        self.feed(HandBackForced())
        if not await self._until(self._is_idle, _INTERRUPT_GRACE):
            # Without processes (runners=0) threads cannot be ended; the leader must know all the same.
            self.feed(GivenUp(reason))

    async def leave(self, budget: float) -> None:
        """Waits at most `budget` seconds for the leader to acknowledge all reports, and says goodbye."""
        await self._until(lambda: not self.desk.unacknowledged, budget)
        self.feed(LeaveBegun())

    async def close(self) -> None:
        """Ends the runners, and so `run`."""
        loop = asyncio.get_running_loop()
        self.feed(CloseBegun())
        deadline = loop.time() + _STOP_GRACE
        while self.fleet.runners:
            if loop.time() > deadline:
                self.feed(CloseForced(_STOP_GRACE))
            await asyncio.sleep(_STOP_LOOK)
        self.fleet.close()

    # The session

    def hello_held(self) -> list[session.Held]:
        """All that is held, for Hello."""
        return self.desk.hello_held(self.fleet.all_running())

    def hello_ended(self) -> list[str]:
        """Predecessors that are proven to have ended, for Hello."""
        self._ended = self._locks.ended() if self._locks is not None else []
        return self._ended

    def start_session(self, first: session.ConnectResponse | None = None) -> None:
        """A leader has welcomed the worker: everything is to be said again.

        Args:
            first: its first frame. What it releases is taken back before anything is started again.
        """
        if self._locks is not None:
            self._locks.forget(self._ended)
        self.feed(SessionStarted(first))

    def cut_off(self) -> None:
        """The stream has been broken for longer than the leader waits.

        What runs goes on. Nothing new is started until the next session.
        """
        self.feed(CutOff())

    def lose_lease(self) -> None:
        """The leader has not been heard for longer than the lease."""
        self.feed(LeaseLost())

    def receive(self, response: session.ConnectResponse) -> None:
        """Takes what the leader sent."""
        self.feed(FrameReceived(response))

    def take(self, bytes_max: int) -> session.ConnectRequest | None:
        """The next frame for the leader; None when there is nothing to say."""
        frame = self.desk.next_frame(bytes_max)
        if self.desk.frame.unacknowledged.has_unsent:
            self.wake.set()
        return frame

    def slots(self) -> dict[str, int]:
        """All slots by what they do; see `slot_states`. May be asked from any thread."""
        withheld = self.desk.is_draining or self.desk.pause.is_on
        return slot_states(self.desk.roster.ordinary, self.fleet.running, self.options.slots, withheld=withheld)

    @property
    def handlers(self) -> messages.Ready:
        """What the first runner that was ready has told."""
        return self.desk.handlers or messages.Ready((), "", ())

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self.desk.is_draining

    @property
    def unacknowledged(self) -> int:
        """How many reports the leader has not acknowledged."""
        return self.desk.unacknowledged

    @property
    def has_left(self) -> bool:
        """Whether the goodbye was taken."""
        return self.desk.frame.has_left
