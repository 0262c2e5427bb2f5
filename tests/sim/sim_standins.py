"""Stands in for what a leader among several asks of its machine: ports, connections to others, clocks, chance."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from sim_copying import SimPeerChannel
from sim_leader import SimOutbox
from sim_logged_store import SimEntryWriter
from sim_node import LeaderProcess
from sim_process import PROCESS
from sim_seat import Seat
from sim_store import NoThread

from gowork.leader._app import early_ending, equipment, leader, node, standby, term
from gowork.leader._core import effects as ef
from gowork.leader._core.kinds import MEMBERS
from gowork.leader._core.model import Now
from gowork.leader._engine import retention, seams
from gowork.leader._engine.loop import Engine
from gowork.leader._replication import candidacy, journal, pins, pruning, upkeep, weight
from gowork.leader._rpc import copies, copying, forwarding
from gowork.leader._rpc.services import Port
from gowork.leader.log._etcd import leadership, values
from gowork.leader.store import _sqlite_file, _sqlite_ids, _sqlite_meta, _sqlite_reserve, sqlite

if TYPE_CHECKING:
    from sim_several import SeveralWorld

#: Bounds that are reached in seconds with some hundred small batches: {module: {name: value}}.
_BOUNDS: Mapping[Any, Mapping[str, float]] = {
    pruning: {"LOOK_SECONDS": 1.0},
    upkeep: {"FORCE_SECONDS": 1.0, "REGISTER_SECONDS": 2.0},
    weight: {"BLOCK_BYTES": 128},
    pins: {"PIN_SECONDS": 10.0, "AGAIN_SECONDS": 3.0},
    retention: {"LOOK_SECONDS": 3.0},
    copying: {"AGAIN_SECONDS_MAX": 2.0},
    _sqlite_reserve: {"RESERVE_BYTES": 4096},
    _sqlite_ids: {"RECENT_MAX": 16, "SLICE_IDS": 4},
}


def own() -> LeaderProcess:
    """Returns the process whose code runs."""
    return cast(LeaderProcess, PROCESS.get())


@contextmanager
def simulated_leaders(world: SeveralWorld) -> Iterator[None]:
    """Within, leaders run on simulated machines."""
    stand_ins: list[tuple[Any, str, Any]] = [
        (leader, "Node", SimAppNode),
        (node, "Ports", SimPorts),
        (forwarding, "Upstream", SimUpstream),
        (standby, "Term", SimTerm),
        (standby, "SystemClock", _Clock),
        (equipment, "Dialer", _NoDialer),
        (term, "EffectRouter", LeaderOutbox),
        (term, "Engine", _engine),
        (early_ending, "until_refused", _until_refused),
        (early_ending, "time", _Time),
        (candidacy, "random", _Chance),
        (copying, "open_channel", lambda addresses, **_: SimPeerChannel(world, addresses[0])),
        (sqlite, "EntryWriter", SimEntryWriter),
        (sqlite, "LoopExecutor", lambda name: NoThread()),
        (sqlite, "merge_all", _merge_all),
        (values, "PART_BYTES", world.part_bytes),
        (pruning, "BEHIND_BYTES_MAX", world.behind_bytes),
        *((module, "secrets", _Secrets) for module in (copies, leadership, journal, pins, _sqlite_file, _sqlite_meta)),
        *((module, name, value) for module, bounds in _BOUNDS.items() for name, value in bounds.items()),
    ]
    with ExitStack() as stack:
        for owner, name, stand_in in stand_ins:
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        yield


class _Clock:
    """Plays SystemClock: the machine's clocks."""

    @staticmethod
    def now() -> Now:
        return Now(own().world.wall_ms(), asyncio.get_running_loop().time())


class _Time:
    """Plays the module `time`."""

    @staticmethod
    def monotonic() -> float:
        return asyncio.get_running_loop().time()


class _Chance:
    """Plays the module `random`: draws by the seed."""

    @staticmethod
    def uniform(least: float, most: float) -> float:
        return own().rng.uniform(least, most)


class _Secrets:
    """Plays the module `secrets`: draws by the seed."""

    @staticmethod
    def token_bytes(number: int) -> bytes:
        return own().rng.randbytes(number)

    @staticmethod
    def token_hex(number: int) -> str:
        return own().rng.randbytes(number).hex()


def _merge_all(connection: Any) -> bool:
    busy, log_pages, merged_pages = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if merged_pages > 0:
        own().store.merged()
    is_all = not busy and 0 <= log_pages == merged_pages
    if is_all:
        own().store.forced()
    return is_all


async def _until_refused(address: str, tls: None = None) -> None:
    world = own().world
    node = world.node_at(address)
    while True:
        await node.refuses.wait()
        await asyncio.sleep(early_ending.BETWEEN_SECONDS)
        if node.refuses.is_set() and world.loop.now >= max(own().node.away_until, node.away_until):
            world.trace.seen["log: a leader is found to be gone"] += 1
            return
        await asyncio.sleep(early_ending.UNREACHED_SECONDS)


class SimPorts:
    """Plays Ports. Callers and workers come to the leader's seat instead."""

    def __init__(self, *args: object, **options: object) -> None:
        self.under_way: set[asyncio.Task[Any]] = set()

    def bind(self, name: Port, listen: str) -> str:
        return listen

    async def start(self) -> None:
        """Has nothing to start."""

    async def set_health(self, *, serving: bool) -> None:
        """Nobody asks for it."""

    async def see_off(self, calls: object, seconds: float, refusal: object) -> None:
        """Has no calls."""

    async def stop(self, seconds: float) -> None:
        """Has nothing to stop."""


class SimUpstream:
    """Plays Upstream. The world forwards calls itself."""

    leads = False

    def __init__(self, addresses: Mapping[Port, str], changed: Callable[[], None], tls: None = None) -> None:
        self.addresses = addresses
        self.unconfirmed = asyncio.Event()

    async def run(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def close(self, refusal: object, seconds: float) -> None:
        """Has nothing to close."""


class SimAppNode(node.Node):
    """Opens and closes the seat where the real one puts calls through."""

    def _listener(self, loop: asyncio.AbstractEventLoop) -> Any:
        return _NoListener()

    async def _put_through(self, term: Any, began_mono: float) -> None:
        await super()._put_through(term, began_mono)
        process = own()
        process.serve(Seat(term._engine, term._sessions, process.context, process.name, term.token))

    async def _turn_away(self, term: Any) -> None:
        own().serve_no_more()
        await super()._turn_away(term)


class _NoListener(contextlib.nullcontext[None]):
    address = "10.0.0.0:0"


class SimTerm(term.Term):
    """Shows the checkers what it has recovered."""

    def __init__(self, store: Any, equipment: Any, journal: Any, **options: Any) -> None:
        super().__init__(store, equipment, journal, **options)
        self._read = store
        self._leader = journal._leadership.leader
        self.token: int = self._leader.token

    async def open(self) -> None:
        await super().open()
        process, number, engine = own(), self._leader.term, self._engine
        facts = await self._read.facts(MEMBERS.name, "", 1_000, 1 << 20)
        if process.is_alive and process.world.log_checks.leads(number):
            process.world.trace.note("leader", process.name, "leads, term", number)
            members = {fact.key: MEMBERS.decode(fact.value).address for fact in facts}
            process.world.checks.recovered(engine._state, members, engine._looked_mono)


def _engine(store: Any, router: LeaderOutbox, counts: Any, settings: Any, *, journal: Any) -> Engine:
    with mock.patch.object(seams, "ON", True):
        router.engine = Engine(store, router, counts, settings, own().clock, journal=journal)
    return router.engine


class LeaderOutbox(SimOutbox):
    """The outbox of a leader among several, which may be gone."""

    def __init__(self, sessions: Any, dialer: object, counts: object) -> None:
        self._process = own()
        super().__init__(self._process.world, sessions)

    def deliver(self, effects: Any) -> None:
        process = self._process
        if not process.is_alive:
            return
        # What was confirmed before may leave late where keepalives were lies.
        is_told = any(not isinstance(each, ef.CountStale) for each in effects)
        if process.seat is not None and is_told and not process.was_deceived:
            process.world.log_checks.leaves(process.name, process.seat.token)
        super().deliver(effects)


class _NoDialer:
    """Plays Dialer. The outbox dials."""

    def __init__(self, tls: None, name: str) -> None:
        """Has nothing to do with certificates."""

    def attach(self, engine: Engine) -> None:
        """Needs no engine."""

    async def run(self, stopped: asyncio.Event) -> None:
        await stopped.wait()
