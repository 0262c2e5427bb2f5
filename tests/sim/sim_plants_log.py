"""Plants bugs of leaders that share a log, from outside of their code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apsw
from msgspec.structs import replace

from gowork.leader._core.model import Position
from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.leadership import EtcdLeadership
from gowork.leader.log._etcd.requests import delete, get, held
from gowork.leader.log._etcd.values import joined, read_value
from gowork.leader.log.etcd import EtcdLog
from gowork.leader.log.holding import OwnLease
from gowork.leader.log.protocol import Candidate, Leader, Leadership, LogEntry, LogRefusedError, LogUnreachableError
from gowork.leader.store import _sqlite_backup, sqlite
from gowork.leader.store._sqlite_meta import read_position, rename
from gowork.leader.store.sqlite import SqliteStore


@dataclass
class LogPlants:
    """Which of these bugs are planted."""

    append_without_comparing: bool = False
    believe_absence_in_doubt: bool = False
    prune_empties_the_log: bool = False
    elect_a_lagging_store: bool = False
    confirm_before_the_question: bool = False
    copy_raises_the_term: bool = False
    read_forced_after_the_merge: bool = False
    apply_void_parts: bool = False
    count_the_lease_from_the_answer: bool = False
    write_one_store_wrong: bool = False

    def into_entry(self, name: str, connection: apsw.Connection) -> None:
        """Plants the bug that lives in one store, in its open transaction."""
        if self.write_one_store_wrong and name == "n1":
            connection.execute(
                "UPDATE standings SET at_ms = at_ms + 1 WHERE seq = (SELECT max(seq) FROM standings WHERE status > 2)"
            )

    def patches_of_the_log(self) -> Iterator[tuple[Any, str, Any]]:
        """Yields (where, what, the bug)."""
        if self.append_without_comparing:
            yield EtcdLeadership, "_told", _told_without_comparing
        if self.believe_absence_in_doubt:
            yield EtcdLeadership, "append", _append_noting_where
            yield EtcdLeadership, "_told", _told_or_absent
        if self.prune_empties_the_log:
            yield EtcdLeadership, "prune", _prune_all
        if self.elect_a_lagging_store:
            yield EtcdLog, "campaign", _campaign_as_if_up_to_date
        if self.confirm_before_the_question:
            yield EtcdLeadership, "confirm", _confirm_now_and_then
        if self.copy_raises_the_term:
            yield _sqlite_backup, "rename", _rename_into_another_term
        if self.read_forced_after_the_merge:
            yield SqliteStore, "force", _force_and_then_read
        if self.apply_void_parts:
            yield EtcdLog, "_entry", _entry_of_any_parts
            yield EtcdLog, "_remove_void_parts", _remove_nothing
        if self.count_the_lease_from_the_answer:
            yield OwnLease, "renewed", _renewed_now


_told, _append = EtcdLeadership._told, EtcdLeadership.append
_prune, _confirm, _campaign, _renewed = EtcdLeadership.prune, EtcdLeadership.confirm, EtcdLog.campaign, OwnLease.renewed


async def _told_without_comparing(
    self: EtcdLeadership, compared: Sequence[pb.Compare], *args: Any, is_final: bool = False
) -> pb.TxnResponse:
    return await _told(self, compared[1:] if is_final else compared, *args, is_final=is_final)


async def _append_noting_where(self: EtcdLeadership, index: int, data: bytes) -> None:
    self._where = self._keys.entry(index)  # type: ignore[attr-defined]
    await _append(self, index, data)


async def _told_or_absent(self: EtcdLeadership, *asked: Any, is_final: bool = False) -> pb.TxnResponse:
    if not is_final:
        return await _told(self, *asked)
    compared, success, failure = asked
    request = pb.TxnRequest(compare=compared, success=success, failure=failure)
    while True:
        try:
            return await self._etcd.txn(request)
        except LogUnreachableError:
            found = await _told(self, [], [get(self._where, keys_only=True)])  # type: ignore[attr-defined]
            if not found.responses[0].response_range.kvs:
                raise LogRefusedError("the log does not have it") from None


async def _prune_all(self: EtcdLeadership, before: int) -> None:
    await _prune(self, before)
    await self._told([held(self._keys.leader, self.leader.token)], [delete(*self._keys.entries)])


async def _campaign_as_if_up_to_date(self: EtcdLog, candidate: Candidate) -> Leadership:
    return await _campaign(self, replace(candidate, applied=(await self.span()).last))


async def _confirm_now_and_then(self: EtcdLeadership) -> None:
    now = self._etcd.now()
    if now > getattr(self, "_confirmed", -1.0) + 6.0:
        await _confirm(self)
        self._confirmed = now  # type: ignore[attr-defined]


def _rename_into_another_term(connection: apsw.Connection) -> None:
    rename(connection)
    connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'term'")


async def _force_and_then_read(self: SqliteStore) -> Position:
    await self._call(self._merges, sqlite.merge_all)
    position = await self._call(self._merges, read_position)
    assert position is not None
    return position


async def _entry_of_any_parts(self: EtcdLog, found: pb.KeyValue) -> LogEntry:
    index, last = self._keys.index_of(found.key), read_value(found.value)
    if not last.before:
        return LogEntry(index, last.data)
    start = self._keys.part(index)
    answer = await self._read(start, start + b"\xff", limit=last.before)
    return LogEntry(index, joined([part.value for part in answer.kvs], last))


async def _remove_nothing(self: EtcdLog, leader: Leader) -> None:
    """Leaves the parts of the leader before."""


def _renewed_now(self: OwnLease, sent: float) -> None:
    _renewed(self, asyncio.get_running_loop().time())
