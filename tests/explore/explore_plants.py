"""Bugs that are planted, each with what must go wrong and the rule that it breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import explore_checks as checks
from explore_etcd import ENTRIES, GENERATION_KEY, LEADER_KEY
from explore_world import Fault, World
from msgspec.structs import replace

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd import values
from gowork.leader.log._etcd.leadership import EtcdLeadership
from gowork.leader.log._etcd.requests import delete
from gowork.leader.log._etcd.values import joined, read_value
from gowork.leader.log.etcd import EtcdLog
from gowork.leader.log.holding import OwnLease
from gowork.leader.log.protocol import (
    Candidate,
    Leader,
    Leadership,
    LogEntry,
    LogRefusedError,
    LogUnreachableError,
)

_told = EtcdLeadership._told

#: How large a part is where entries have parts, in bytes: so small that each entry has several.
PART_BYTES = 40


class Plant(NamedTuple):
    """A planted bug."""

    name: str
    #: The rule that it breaks.
    rule: str
    #: What must go wrong, once each.
    faults: Sequence[Fault] = ()
    batches: int = 1
    #: Plants it in the code: {what: {name: instead}}.
    code: Sequence[tuple[object, str, object]] = ()
    #: Plants it in the requests.
    request: Callable[[Any], Any] = lambda request: request
    make_log: type[EtcdLog] = EtcdLog
    #: See World.
    prunes: bool = True
    in_order: bool = False
    #: Whether one machine leads before anything is chosen.
    leads: bool = True

    @contextmanager
    def planted(self, *, reduces: bool = True) -> Iterator[World]:
        """Yields a world with the bug, for as long as it is planted.

        Args:
            reduces: see World.
        """
        with ExitStack() as stack:
            for where, name, instead in self.code:
                stack.enter_context(mock.patch.object(where, name, instead))
            yield World(
                self.batches,
                self.faults,
                len(self.faults),
                make_log=self.make_log,
                plant=self.request,
                prunes=self.prunes,
                in_order=self.in_order,
                reduces=reduces,
            )


def _without_compare(request: Any, of: bytes, writes: bytes) -> Any:
    """Returns a transaction that writes such a key without comparing another key."""
    if isinstance(request, pb.TxnRequest) and any(each.request_put.key.startswith(writes) for each in request.success):
        kept = [compare for compare in request.compare if compare.key != of]
        return pb.TxnRequest(compare=kept, success=request.success, failure=request.failure)
    return request


async def _told_absent(self: EtcdLeadership, *asked: Any, is_final: bool = False) -> pb.TxnResponse:
    if not is_final:
        return await _told(self, *asked)
    compared, success, failure = asked
    try:
        return await self._etcd.txn(pb.TxnRequest(compare=compared, success=success, failure=failure))
    except LogUnreachableError:
        raise LogRefusedError("it was not found, so it was not written") from None


async def _prune_all(self: EtcdLeadership, before: int) -> None:
    await self._told([], [delete(*self._keys.entries)])


async def _confirm_at_once(self: EtcdLeadership) -> None:
    """Believes what was read when the leadership began."""


async def _grant_from_the_answer(self: EtcdLog, seconds: int) -> tuple[OwnLease, int]:
    granted = await self._settled(lambda: self._etcd.grant(seconds))
    return OwnLease(granted.TTL, self._etcd.now()), granted.ID


class _CarelessLog(EtcdLog):
    """Elects a candidate as if its store had all entries."""

    async def campaign(self, candidate: Candidate) -> Leadership:
        return await super().campaign(replace(candidate, applied=(await self.span()).last))


class _PartsOfAnybody(EtcdLog):
    """Takes all parts of an index for those of the entry, and leaves those of dead leaders there."""

    async def _remove_void_parts(self, leader: Leader) -> None:
        return

    async def _entry(self, found: pb.KeyValue) -> LogEntry:
        keys, index, last = self._keys, self._keys.index_of(found.key), read_value(found.value)
        answer = await self._read(keys.part(index), keys.part(index) + b"\xff")
        return LogEntry(index, joined([part.value for part in answer.kvs], last))


PLANTS = [
    Plant(
        "an append does not compare the leadership",
        checks.ONE_LEADER,
        [Fault.EXPIRE],
        request=lambda request: _without_compare(request, LEADER_KEY, ENTRIES),
    ),
    Plant(
        "what is absent in doubt is taken for not written",
        checks.REFUSED,
        [Fault.DOUBT],
        code=[(EtcdLeadership, "_told", _told_absent)],
    ),
    Plant("a prune empties the log", checks.LAST_ENTRY, code=[(EtcdLeadership, "prune", _prune_all)]),
    Plant("a store that lags is elected", checks.CAN_APPLY, [Fault.STEP_DOWN], make_log=_CarelessLog),
    Plant(
        "a confirm is answered before it is asked",
        checks.CONFIRMED,
        [Fault.EXPIRE],
        code=[(EtcdLeadership, "confirm", _confirm_at_once)],
    ),
    Plant(
        "parts of a dead leader count",
        checks.SAME_BYTES,
        [Fault.STEP_DOWN],
        code=[(values, "PART_BYTES", PART_BYTES)],
        make_log=_PartsOfAnybody,
        prunes=False,
        in_order=True,
    ),
    Plant(
        "the own lease is counted from the answer",
        checks.OWN_LEASE,
        [Fault.SLOW],
        code=[(EtcdLog, "_grant", _grant_from_the_answer)],
        leads=False,
    ),
    Plant(
        "an election does not compare the generation",
        checks.GENERATION,
        [Fault.BEGIN],
        request=lambda request: _without_compare(request, GENERATION_KEY, LEADER_KEY),
        leads=False,
    ),
]
