"""Reads and writes facts in their tables.

All kinds are in the table `facts`, except two. Callback workers and settings of queues stay in the tables that format 2
had for them before it had facts, so that version 0.1.0 can use a store that `gowork store downgrade` has brought back.
"""

# ruff: noqa: S608 - the texts are constant; values are bound.

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

import apsw
import msgspec

from gowork.leader._core.kinds import MEMBERS, QUEUES, Member
from gowork.leader._core.model import Fact, FactKey
from gowork.leader.store._sqlite_rows import RowsStatement

_encode_json = msgspec.json.Encoder().encode


class _Table:
    """A table of facts.

    Args:
        name: the table's name.
        key: the columns of its primary key; the last one is the fact's key.
        others: its other columns.
        row: returns the row of a fact.
        value: returns a fact's value; its arguments are the other columns.
        of_kind: the condition on rows of the kind that is bound as :kind.
    """

    def __init__(
        self,
        name: str,
        key: Sequence[str],
        others: Sequence[str],
        row: Callable[[Fact], tuple[object, ...]],
        value: Callable[..., bytes],
        of_kind: str = "TRUE",
    ) -> None:
        self._row, self._value = row, value
        changes = ", ".join(f"{column} = excluded.{column}" for column in others)
        conflict = f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
        self._put = RowsStatement(name, (*key, *others), conflict)
        self._remove = f"DELETE FROM {name} WHERE {of_kind} AND {key[-1]} IN (SELECT value FROM json_each(:keys))"
        self._page = f"""
            SELECT {key[-1]}, {", ".join(others)} FROM {name}
            WHERE {of_kind} AND {key[-1]} > :after ORDER BY {key[-1]} LIMIT :limit
        """

    def put(self, connection: apsw.Connection, facts: Sequence[Fact]) -> None:
        self._put.run(connection, [column for fact in facts for column in self._row(fact)])

    def remove(self, connection: apsw.Connection, kind: str, keys: Sequence[str]) -> None:
        connection.execute(self._remove, {"kind": kind, "keys": _encode_json(keys).decode()})

    def page(self, connection: apsw.Connection, kind: str, after: str, limit: int, bytes_max: int) -> list[Fact]:
        found: list[Fact] = []
        rows = connection.execute(self._page, {"kind": kind, "after": after, "limit": limit})
        # Closed, because a page that ends at its bytes would leave the reading transaction open.
        with closing(rows):
            for key, *others in rows:
                found.append(Fact(kind, key, self._value(*others)))
                bytes_max -= len(found[-1].value)
                if bytes_max <= 0:
                    break
        return found


def _member_row(fact: Fact) -> tuple[object, ...]:
    member = MEMBERS.decode(fact.value)
    return fact.key, member.address, member.joined_ms


def _member_value(address: str, joined_ms: int) -> bytes:
    return MEMBERS.encode(Member(address, joined_ms))


def _queue_row(fact: Fact) -> tuple[object, ...]:
    return fact.key, fact.value


def _fact_row(fact: Fact) -> tuple[object, ...]:
    return fact.kind, fact.key, fact.value


_FACTS = _Table("facts", ("kind", "key"), ("value",), _fact_row, bytes, "kind = :kind")
_OTHERS: dict[str, _Table] = {
    MEMBERS.name: _Table("members", ("id",), ("address", "joined_ms"), _member_row, _member_value),
    QUEUES.name: _Table("queues", ("name",), ("settings",), _queue_row, bytes),
}


def write_facts(connection: apsw.Connection, facts: Sequence[Fact], gone: Sequence[FactKey]) -> None:
    """Removes and writes facts, in the transaction that is open."""
    keys: dict[str, list[str]] = {}
    for kind, key in gone:
        keys.setdefault(kind, []).append(key)
    for kind, removed in keys.items():
        _OTHERS.get(kind, _FACTS).remove(connection, kind, removed)
    rows: dict[str, list[Fact]] = {}
    for fact in facts:
        rows.setdefault(fact.kind, []).append(fact)
    for kind, written in rows.items():
        _OTHERS.get(kind, _FACTS).put(connection, written)


def facts_page(connection: apsw.Connection, kind: str, after: str, limit: int, bytes_max: int) -> list[Fact]:
    """See Store.facts."""
    return _OTHERS.get(kind, _FACTS).page(connection, kind, after, limit, bytes_max)
