"""The supervisor: one object on one loop, around the desk. It tells the desk what the leader, the runners and the
program around the worker do, and has the desk's instructions carried out.

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
from gowork.worker._desk.instructions import (
    BeginDrain,
    ForFleet,
    ForNotes,
    Instruction,
    LearnHandlers,
    RefuseEnvironments,
    Speak,
)
from gowork.worker._desk.runner import RunnerId
from gowork.worker._fleet.fleet import Fleet
from gowork.worker._runner import messages
from gowork.worker._supervisor.instances import InstanceLocks
from gowork.worker._supervisor.measures import Measures
from gowork.worker._supervisor.notes import Notes
from gowork.worker._supervisor.slot_states import slot_states
from gowork.worker.errors import ConfigurationError

logger = logging.getLogger("gowork.worker")

#: Seconds between two looks at the runners: while tasks are held or a place has no runner, and otherwise.
INTERVAL = 0.05
IDLE_INTERVAL = 0.25
#: Seconds that runners have to stop their tasks, before they are ended; and seconds to wait for their end then.
_INTERRUPT_GRACE = 1.0
#: Seconds that runners have to leave their lifespans, and seconds between two looks at whether they have.
_STOP_GRACE = 5.0
_STOP_LOOK = 0.01


class Supervisor:
    """Runs the tasks of one worker. Await `run`; meanwhile the session and the program around it call the rest."""

    def __init__(self, options: Options) -> None:
        self.options = options
        #: A random id of this process.
        self.instance = secrets.token_hex(8)
        self._locks: InstanceLocks | None = None
        #: The ended predecessors that the last Hello named.
        self._ended: list[str] = []
        self.measures = Measures()
        #: Set whenever there may be something to send.
        self.wake = asyncio.Event()
        #: For when the last timer was set that sets it, because reports gather.
        self._due: float | None = None
        #: Set once the handlers are known, or the worker can't start.
        self.ready = asyncio.Event()
        #: Why the worker can't start; None when nothing is wrong.
        self.refusal: ConfigurationError | None = None
        #: Called when the leader asks the worker to drain, with the budget in seconds; None for the worker's own.
        self.asked_to_drain: Callable[[float | None], None] = lambda budget: None
        self.desk = Desk(
            slots=options.slots,
            runners=options.runners,
            unacknowledged_bytes_max=options.unacknowledged_bytes_max,
            blocked_timeout=options.blocked_timeout,
            lent_slots_max=options.lent_slots_max,
            runner_tasks_max=options.runner_tasks_max,
            runner_memory_bytes_max=options.runner_memory_max << 20,
        )
        self.fleet = Fleet(options, self.feed, self._count)
        self._notes = Notes(self.measures, options.log_failures, self._whom)
        #: Events that wait for the desk: to carry out an instruction may cause the next event.
        self._events: deque[Event] = deque()
        #: Whether the instructions of an event are being carried out.
        self._is_feeding = False
        #: Set after each event.
        self._fed = asyncio.Event()

    def feed(self, event: Event) -> None:
        """Hands an event to the desk, and has the desk's instructions carried out."""
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
            case RefuseEnvironments(reason):
                self.refusal = ConfigurationError(reason)
                self.ready.set()
            case _:
                assert_never(instruction)

    async def _until(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Waits until a condition holds, at most `seconds`. Returns whether it holds."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._fed.clear()
                    await self._fed.wait()
        except TimeoutError:
            return False
        return True

    def _count(self, counted: messages.Counted) -> None:
        match counted:
            case messages.Executed(rows):
                self.measures.executed(rows)
            case messages.Restored(counts):
                self.measures.restored(counts)

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
            # Threads of this process (runners=0) may still run tasks. Then only the end of the process proves anything.
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
        """Returns how many tasks are held, and the first `most` of them as "ID (HANDLER)"."""
        named = []
        for task in itertools.islice(self.desk.held.values(), most):
            name = tasks.Task.FromString(task.grant.task).handler or self.handlers.default_handler
            named.append(f"{task.id} ({name})")
        return len(self.desk.held), named

    async def hand_back(self, reason: str) -> None:
        """Stops the tasks that still run, and reports them as interrupted, with this reason."""
        self.feed(HandBackBegun(reason))
        if await self._until(self._is_idle, _INTERRUPT_GRACE):
            return
        self.feed(HandBackForced())
        if not await self._until(self._is_idle, _INTERRUPT_GRACE):
            # Threads of this process (runners=0) cannot be ended. The leader must know all the same.
            self.feed(GivenUp(reason))

    async def leave(self, budget: float) -> None:
        """Waits at most `budget` seconds for the leader to acknowledge all reports, and says goodbye."""
        await self._until(lambda: not self.desk.unacknowledged, budget)
        self.feed(LeaveBegun())

    async def close(self) -> None:
        """Ends the runners, so that `run` ends."""
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
        """Returns all tasks that Hello names."""
        return self.desk.hello_held(self.fleet.all_running())

    def hello_ended(self) -> list[str]:
        """Returns the ended predecessors that Hello names."""
        self._ended = self._locks.ended() if self._locks is not None else []
        return self._ended

    def start_session(self, first: session.ConnectResponse | None = None) -> None:
        """A leader has welcomed the worker: everything is said again.

        Args:
            first: the leader's first frame. What it releases is taken back before anything is started again.
        """
        if self._locks is not None:
            self._locks.forget(self._ended)
        self.feed(SessionStarted(first))

    def cut_off(self) -> None:
        """The reconnect grace has passed without a stream.

        Running tasks go on. Nothing new is started until the next session.
        """
        self.feed(CutOff())

    def lose_lease(self) -> None:
        """The worker has not heard from the leader for longer than the lease."""
        self.feed(LeaseLost())

    def receive(self, response: session.ConnectResponse) -> None:
        """Takes a frame of the leader."""
        self.feed(FrameReceived(response))

    def take(self, bytes_max: int) -> session.ConnectRequest | None:
        """Returns the next frame for the leader; None when there is nothing to say yet. `wake` is set when there is.

        Args:
            bytes_max: how many bytes its reports may take, unless the first batch of them takes more.
        """
        loop = asyncio.get_running_loop()
        frame = self.desk.next_frame(bytes_max, loop.time())
        due = self.desk.frame.due
        if due is not None:
            if due != self._due:
                self._due = due
                loop.call_at(due, self._come_due, due)
        elif self.desk.frame.unacknowledged.unsent or self.desk.frame.checkpoints.unsent:
            self.wake.set()
        return frame

    def _come_due(self, due: float) -> None:
        # A loop fires timers that are due within its clock's resolution, so that `due` may be still ahead, and the next
        # reports may be due at the same time.
        if self._due == due:
            self._due = None
        self.desk.frame.come_due(due)
        self.wake.set()

    def slots(self) -> dict[str, int]:
        """Counts all slots by what they do; see `slot_states`. Any thread may call this."""
        withheld = self.desk.is_draining or self.desk.pause.is_on
        return slot_states(self.desk.roster.ordinary, self.fleet.running, self.options.slots, withheld=withheld)

    @property
    def handlers(self) -> messages.Ready:
        """What the first runner that was ready has told."""
        return self.desk.handlers or messages.Ready((), "", ())

    @property
    def draining(self) -> bool:
        """Whether the worker takes no new tasks."""
        return self.desk.is_draining

    @property
    def has_work(self) -> bool:
        """Whether it holds tasks, or reports that the leader has not acknowledged. Any thread may ask."""
        return bool(self.desk.held) or bool(self.desk.unacknowledged)

    @property
    def unacknowledged(self) -> int:
        """How many reports the leader has not acknowledged."""
        return self.desk.unacknowledged

    @property
    def has_left(self) -> bool:
        """Whether a frame with the goodbye was taken."""
        return self.desk.frame.has_left
