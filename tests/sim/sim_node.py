"""The machines of several leaders. Each runs the leader that ships, over a simulated store, log and network."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, cast

from sim_check_removals import KEPT_SECONDS
from sim_etcd_calls import Fault, LoopClock, SimEtcdClient, SimLink
from sim_leader import SETTINGS
from sim_logged_store import SimLoggedStore
from sim_process import SimProcess
from sim_seat import Seat
from sim_store import SimClock
from sim_violation import Violation
from sim_world import first_of

from gowork.leader._app.leader import Leader
from gowork.leader._app.node import Addresses
from gowork.leader._core.state import Settings
from gowork.leader._engine.retention import Kept
from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log.etcd import _PAGE_ENTRIES, EtcdLog

if TYPE_CHECKING:
    from sim_copying import SimCopyCall
    from sim_several import SeveralWorld

#: What the keys of entries and of parts begin with.
_ENTRIES, _PARTS = b"gowork/log/", b"gowork/part/"
#: How long a message to etcd is under way, in seconds.
_QUICK = (0.0005, 0.003, 0.02)
_SLOW = (0.05, 0.2, 0.3)
#: For how long nobody leads when a leader's lease has run out, in seconds.
_NOBODY_LEADS = 0.05
#: For how long what was not answered may have been read and not be there, in seconds.
_MAY_HAVE_READ = 0.9
#: For how long the keepalives of a leader are answered late before they are lost, in seconds.
_KEPT_SECONDS = 1.5


class SimNode:
    """One machine that runs a leader, kills it and starts it again.

    Args:
        folder: where its store is.
        number: the machine's number.
    """

    def __init__(self, world: SeveralWorld, folder: Path, number: int) -> None:
        self.world, self.rng = world, Random(world.rng.random())
        self.name = f"n{number}"
        self.cluster = f"10.0.0.{number}:50051"
        self._folder = folder / self.name
        self._lives = 0
        self.clock_rate = self.rng.uniform(0.97, 1.03)
        #: Is set while nobody listens on its ports.
        self.refuses = asyncio.Event()
        #: Until when nobody but etcd can reach it, and until when it can't reach etcd, in the world's seconds.
        self.away_until = self.cut_until = 0.0
        #: Whether keepalives are answered while it can't reach etcd; see SimLink.cut.
        self.is_deceived = False
        #: Whether its next entry reaches etcd late, and it dies before it can ask again.
        self.holds_back = self.is_dying = False
        #: What goes wrong with calls of etcd at the moment.
        self.is_slow = False
        self.drags = self.loses_keepalives = False
        #: Whether pages of entries do not reach it. The last entry does, without which it would not stand for election.
        self.loses_pages = False
        #: How many parts of an entry it sends until its machine loses its power; None: it does not.
        self.parts_left: int | None = None
        #: What is on the disk of the log of SQLite: which run of it, and up to where. It outlives the processes.
        self.forced = b"", 0
        self.process: LeaderProcess | None = None
        self.refuses.set()
        self.start()

    def start(self) -> None:
        """Starts a process, unless one runs."""
        if self.process is None and not self.world.is_over:
            self.refuses.clear()
            self.process = LeaderProcess(self, self._folder / str(self._lives))
            self.process.begin()

    def kill(self, *, power_cut: bool, loses_disk: bool = False) -> None:
        """Ends the process at once. Another one starts later."""
        process, self.process = self.process, None
        if process is None:
            return
        left = {} if loses_disk else process.store.left(power_cut=power_cut, rng=self.rng)
        self._lives += 1
        folder = self._folder / str(self._lives)
        folder.mkdir(parents=True)
        for suffix, content in left.items():
            (folder / f"gowork.db{suffix}").write_bytes(content)
        process.end()
        if not power_cut:
            self.refuses.set()
        self.start_soon()

    def start_soon(self) -> None:
        """Has a process start later."""
        self.world.loop.later(self.rng.choice((0.05, 0.5, 3.0, 8.0)), self.start)

    def ended(self, error: BaseException | None) -> None:
        """Is told that the process has ended by itself."""
        self.process = None
        self.refuses.set()
        self.world.trace.note("leader", self.name, "ends", repr(error) if error is not None else "")
        if error is not None:
            first = first_of(error)
            is_found = isinstance(first, Violation)
            self.world.found(first if is_found else Violation("no leader gives up", self.name, repr(first)))
        self.start_soon()

    def ask_to_stop(self) -> None:
        """Asks the process to stop. Another one starts later."""
        if self.process is not None:
            self.process.stopped.set()

    def pause(self, seconds: float) -> None:
        """Stops the process for a while."""
        process = self.process
        if process is not None:
            process.stop()
            self.world.loop.later(seconds, process.go_on)

    def cut_from_etcd(self, seconds: float, *, is_deceived: bool) -> None:
        """Lets it reach etcd no more for a while. Its keepalives may still be answered."""
        self.cut_until, self.is_deceived = self.world.loop.now + seconds, is_deceived
        if self.process is not None:
            self.process.link.cut(is_deceived=is_deceived)
            self.process.was_deceived |= is_deceived
        self.world.loop.later(seconds, self._heal)

    def lie(self, seconds: float) -> None:
        """Has its keepalives answered and not done for a while, and tells its watches nothing; see SimLink.lie."""
        process = self.process
        if process is not None:
            process.was_deceived = True
            process.link.lie(is_on=True)
            self.world.loop.later(seconds, partial(process.link.lie, is_on=False))

    def drag(self, seconds: float) -> None:
        """Has etcd answer it just in time for a while, and not tell its watches anything. Then keepalives are lost."""
        process = self.process
        if process is not None:
            self.drags = True
            process.link.mute(is_on=True)
            self.world.loop.later(_KEPT_SECONDS, setattr, self, "loses_keepalives", True)
            self.world.loop.later(seconds, self._drag_no_more, process)

    def isolate(self, seconds: float) -> None:
        """Lets nobody but etcd reach it for a while."""
        self.away_until = self.world.loop.now + seconds
        for link in self.world.links_of(self):
            link.silence("both", seconds)

    def calm_down(self) -> None:
        """Ends its faults."""
        self.away_until = self.cut_until = 0.0
        self.holds_back = self.is_dying = self.is_slow = self.drags = self.loses_keepalives = self.loses_pages = False
        self.parts_left = None
        self._heal()
        if self.process is not None and self.process.is_stopped:
            self.process.go_on()
        self.start()

    @property
    def is_reached(self) -> bool:
        """Whether calls get through to its process."""
        process = self.process
        return process is not None and not process.is_stopped and self.world.loop.now >= self.away_until

    def _drag_no_more(self, process: LeaderProcess) -> None:
        self.drags = self.loses_keepalives = False
        process.link.mute(is_on=False)

    def _heal(self) -> None:
        if self.process is not None and self.world.loop.now >= self.cut_until:
            self.process.link.heal()


class LeaderProcess(SimProcess):
    """One process of a leader, from its start to its end."""

    def __init__(self, node: SimNode, folder: Path) -> None:
        self.world, self.node, self.name = node.world, node, node.name
        super().__init__(node.world.loop, node.clock_rate, Random(node.rng.random()))
        self.clock = SimClock(self.world)
        #: The seat of the term that it leads; None while it leads none.
        self.seat: Seat | None = None
        #: Copies of its store that others take.
        self.copies: dict[SimCopyCall, None] = {}
        self._path = folder / "gowork.db"
        #: Whether keepalives were answered and not done, so that its own lease may outlast that of etcd.
        self.was_deceived = False
        #: Asks it to stop.
        self.stopped = asyncio.Event()
        self.leader: Leader
        self.store: SimLoggedStore
        self.link: SimLink
        self._task: asyncio.Task[None]

    def begin(self) -> None:
        """Starts its code."""
        self.world.trace.note("leader", self.name, "starts")
        self.context.run(self._make)
        loop = self.world.loop
        self._task = loop.create_task(self.leader.run(loop.create_future(), self.stopped), context=self.context)
        self._task.add_done_callback(self._done)

    def _make(self) -> None:
        loop, node = self.world.loop, self.node
        self.store = SimLoggedStore(self._path, self)
        self.world.stores.append(self.store)
        self.link = SimLink(
            self.world.etcd,
            LoopClock(loop),
            loop.time,
            delay=lambda: self.rng.choice(_SLOW if node.is_slow else _QUICK),
            fault=self._fault,
            late=self._late,
        )
        if loop.now < node.cut_until:
            self.link.cut(is_deceived=node.is_deceived)
            self.was_deceived = node.is_deceived
        self.leader = Leader(
            self.store,
            cluster_listen=node.cluster,
            scheduler_listen=node.cluster,
            http_listen=node.cluster,
            settings=Settings(**SETTINGS),  # type: ignore[arg-type]
            kept=Kept(seconds=KEPT_SECONDS, failed_seconds=KEPT_SECONDS),
            reflection=False,
            log=EtcdLog(SimEtcdClient(self.link), "gowork"),
            name=node.name,
        )

    def _late(self, seconds: float) -> float:
        """Returns after how long a late request arrives.

        Often nobody leads just then, when its leader dies. Else its leader may have read that it did not arrive.
        """
        left = self.world.etcd.leads_for()
        if self.rng.random() < 0.4:
            return seconds + self.rng.uniform(-0.9, 3.0)
        if self.node.is_dying and left is not None:
            return left + self.rng.uniform(0.0, _NOBODY_LEADS)
        return seconds + self.rng.uniform(0.0, _MAY_HAVE_READ)

    def _fault(self, request: object) -> Fault | None:
        """Says what goes wrong with a call of etcd."""
        if self.world.calm or not self.is_alive:
            return None
        is_keepalive = isinstance(request, pb.LeaseKeepAliveRequest)
        if self.node.holds_back and _appends(request):
            self._held_back()
            return Fault.LATE
        if is_keepalive and self.node.loses_keepalives:
            return Fault.LOST
        if self.node.loses_pages and _is_page_before(request, self.world.log_checks.end.index):
            return Fault.LOST
        if self.node.parts_left is not None and not is_keepalive and self._dies_amid_parts(request):
            return Fault.LOST
        if self.node.drags:
            return Fault.SLOW if is_keepalive else Fault.LAGGING
        chance = self.rng.random()
        if is_keepalive:
            return Fault.SLOW if chance < 0.1 else Fault.LOST if chance < 0.2 else None
        faults = (Fault.LOST, Fault.UNANSWERED, Fault.LATE, Fault.SLOW, Fault.BUSY)
        fault = faults[int(chance * 250)] if chance < 0.02 else None
        if fault is not None:
            self.world.trace.fault(f"a call of etcd is {fault.name}", self.name)
        return fault

    def _held_back(self) -> None:
        """Has it die soon, perhaps. It asks again only after a second."""
        node = self.node
        node.holds_back = False
        if node.is_dying:
            self.world.trace.fault("etcd gets late what a leader sends, and the leader dies", self.name)
            self.world.loop.later(self.rng.uniform(0.01, 0.1), self._die)
        else:
            self.world.trace.fault("etcd gets late what a leader sends", self.name)

    def _die(self) -> None:
        self.node.is_dying = False
        self.node.kill(power_cut=self.rng.random() < 0.7)

    def _dies_amid_parts(self, request: object) -> bool:
        """Lets some parts of an entry through. With the next request, the machine loses its power."""
        node = self.node
        if node.parts_left:
            node.parts_left -= _is_part(request)
            return False
        node.parts_left = None
        self.world.trace.fault("a leader dies between the parts of an entry", node.name)
        self.world.loop.later(0.0, partial(node.kill, power_cut=True))
        return True

    @property
    def follows(self) -> Addresses | None:
        """Whom it forwards calls to."""
        return self.leader._node._leader

    def step_down(self) -> None:
        """Has it give up its leadership, as an operator does."""
        presence = self.leader._node._look_at_log
        if presence is not None:
            self.context.run(cast(Any, presence).__self__.step_down)

    def serve(self, seat: Seat) -> None:
        """Opens a seat."""
        if self.is_alive:
            self.seat = seat

    def serve_no_more(self) -> None:
        """Closes the seat."""
        if self.seat is not None:
            self.seat.close()
            self.seat = None

    def end(self) -> None:
        """Ends it at once. The rest of its code unwinds, and nobody hears of it."""
        self.is_alive = False
        self.serve_no_more()
        for link in self.world.links_of(self.node):
            link.cut()
        for call in list(self.copies):
            call.break_off()
        self.link.cut()
        if self.is_stopped:
            self.go_on()
        self._task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        if self.is_alive:
            self.is_alive = False
            self.serve_no_more()
            self.node.ended(None if task.cancelled() else task.exception())


def _is_part(request: object) -> bool:
    """Whether this appends a part of an entry that is not its last."""
    return isinstance(request, pb.TxnRequest) and any(
        each.request_put.key.startswith(_PARTS) for each in request.success
    )


def _appends(request: object) -> bool:
    """Whether this appends an entry, or the last part of one."""
    return isinstance(request, pb.TxnRequest) and any(
        each.request_put.key.startswith(_ENTRIES) for each in request.success
    )


def _is_page_before(request: object, last: int) -> bool:
    """Whether this reads entries to follow the log, from one before the last one on."""
    return isinstance(request, pb.TxnRequest) and any(
        each.request_range.limit == _PAGE_ENTRIES and int(each.request_range.key.rpartition(b"/")[2], 16) < last
        for each in request.success
    )
