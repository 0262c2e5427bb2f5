"""Which task has an id: the table `ids`, and in memory the ids of the latest tasks, which it does not have yet.

An id in no order touches a page of its own in a large table, and each page that is touched is written to the log whole.
So new ids wait in memory. When there are many, they go into the table in their order, a slice at a time, and each page
takes several. Nothing is lost with the memory, because `specs` has each task's id: what `ids_from` in `meta` and later
seqs have is read again when the store is opened.

Invariant EACH-ID: each task's id is in the table or in memory, with its seq, and no other id is. What a transaction
changes is in memory when it is committed, and forgotten when it is rolled back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw
import msgspec

from gowork.leader.store._sqlite_rows import RowsStatement
from gowork.leader.store.protocol import StoreError

#: How many tasks come before their ids go to the table. Memory has the ids of up to twice as many, and of one batch:
#: some 40 MB at most, with the longest ids.
RECENT_MAX = 65_536
#: How many ids go to the table at a time. There is a slice for each half as many new tasks, so that the table has taken
#: all of them long before there are as many again.
SLICE_IDS = 512

_encode_json = msgspec.json.Encoder().encode
_decode_found = msgspec.json.Decoder(list[tuple[str, int]]).decode

#: A conflict is the same task: it was written before the store was opened.
_SLICE = RowsStatement("ids", ("id", "seq"), "ON CONFLICT (id) DO NOTHING")
_DIRECT = RowsStatement("ids", ("id", "seq"))
#: Python passes no values again, which would take longer than the rest of the statement.
_STRAIGHT = "INSERT INTO ids (id, seq) SELECT id, seq FROM specs WHERE seq BETWEEN ? AND ?"
FOUND = """
    SELECT json_group_array(json_array(ids.id, ids.seq))
    FROM json_each(?) AS wanted CROSS JOIN ids ON ids.id = wanted.value
"""
_DELETE = """
    DELETE FROM ids WHERE id IN (SELECT json_extract(value, '$[1]') FROM json_each(?))
"""
_COMPLETE = """
    INSERT INTO ids (id, seq) SELECT id, seq FROM specs
    WHERE seq >= (SELECT value FROM meta WHERE key = 'ids_from') ORDER BY id ON CONFLICT (id) DO NOTHING
"""
_ARE_MANY = "SELECT count(*) > ? FROM (SELECT 1 FROM specs WHERE seq >= ? LIMIT ?)"
_RECENT = "SELECT id, seq FROM specs WHERE seq >= ?"
_PUT_FROM = "INSERT OR REPLACE INTO meta VALUES ('ids_from', ?)"


class _Generation:
    """The ids of the tasks that came between two moments."""

    def __init__(self, first_seq: int, near: str | None) -> None:
        #: No task that came before has this seq or a higher one.
        self.first_seq = first_seq
        #: Higher ids go straight to the table, because they come at its end; None: none do. No id in memory is higher.
        self.near = near
        #: {id: seq} of those that the table need not have.
        self.ids: dict[str, int] = {}
        #: Those that went straight to the table.
        self.written: set[str] = set()
        #: Those that a look-up has missed since the generation began, up to RECENT_MAX. Whoever has got one of them
        #: since is in `ids` or `written`, so the writer need not look into the table again.
        self.missed: set[str] = set()
        #: How many tasks have come, the highest of their seqs, and the highest of their ids.
        self.tasks = 0
        self.last_seq = first_seq - 1
        self.last_id = near


class _Change:
    """What the open transaction has changed."""

    def __init__(self, done: int, owed: int) -> None:
        #: Those of TaskIds, as they are when it is committed.
        self.done, self.owed = done, owed
        #: {id: seq} of new tasks, and the ids of those that went straight to the table.
        self.new: dict[str, int] = {}
        self.written: list[str] = []
        #: {(id, seq), ...} of removed tasks.
        self.gone: set[tuple[str, int]] = set()
        #: How many new tasks there are, the highest of their seqs, and the highest of their ids.
        self.tasks = self.last_seq = 0
        self.last_id = ""


class TaskIds:
    """Finds tasks by their ids. One thread writes; others may look up meanwhile."""

    def __init__(self) -> None:
        #: The one that new ids come to, and the one that goes to the table. Replaced together, for those who look up.
        self._generations: tuple[_Generation, _Generation | None] = (_Generation(1, None), None)
        #: The ids of the second in slices, in their order, and how many slices the table has.
        self._slices: list[list[str]] = []
        self._done = 0
        #: For how many new tasks no slice was written yet.
        self._owed = 0
        self._change = _Change(0, 0)

    def load(self, connection: apsw.Connection) -> None:
        """Reads the ids that the table need not have, from a store that nobody writes to meanwhile."""
        first_seq = connection.execute("SELECT value FROM meta WHERE key = 'ids_from'").get
        highest = connection.execute("SELECT coalesce(max(seq), 0) FROM specs").get
        if first_seq > highest + 1:
            # The last tasks were removed, so the next ones get their seqs again.
            first_seq = highest + 1
            connection.execute(_PUT_FROM, (first_seq,))
        if connection.execute(_ARE_MANY, (2 * RECENT_MAX, first_seq, 2 * RECENT_MAX + 1)).get:
            # More than a crash leaves: several have come before the table had taken a generation.
            connection.execute("BEGIN")
            complete(connection)
            connection.execute("COMMIT")
            first_seq = highest + 1
        recent: dict[str, int] = dict(connection.execute(_RECENT, (first_seq,)))
        last_id = connection.execute("SELECT max(id) FROM ids").get
        if last_id is not None:
            last_id = max(last_id, max(recent, default=last_id))
        generation = _Generation(first_seq, last_id)
        generation.ids = recent
        generation.tasks, generation.last_seq = len(recent), highest
        generation.last_id = last_id if last_id is not None else max(recent, default=None)
        self._generations, self._slices, self._done, self._owed = (generation, None), [], 0, 0
        self.forget()

    def are_above_all(self, ids: Sequence[str]) -> bool:
        """Whether no task has one of these ids, because they come after those of all tasks. Any thread may call it."""
        last_id = self._generations[0].last_id
        return last_id is None or min(ids, default=last_id) > last_id

    def find(self, connection: apsw.Connection, ids: Iterable[str]) -> list[int]:
        """Returns the seqs of those of these tasks that are there, each once. Any thread may call it."""
        # Memory comes first: what leaves it is in the table by then.
        filling, flushing = self._generations
        seqs, others = [], []
        for id in dict.fromkeys(ids):
            seq = filling.ids.get(id)
            if seq is None and flushing is not None:
                seq = flushing.ids.get(id)
            if seq is None:
                others.append(id)
            else:
                seqs.append(seq)
        if others:
            found = _in_table(connection, others)
            seqs += found.values()
            if len(filling.missed) + len(others) <= RECENT_MAX:
                filling.missed.update(id for id in others if id not in found)
        return seqs

    def insert(self, connection: apsw.Connection, ids: Sequence[str], seqs: Sequence[int]) -> None:
        """Adds tasks that are in `specs`, in the transaction that is open.

        Raises:
            StoreError: there is a task with one of these ids.
            apsw.ConstraintError: the same.
        """
        filling, change = self._generations[0], self._change
        near, first_seq, last_seq, last_id = filling.near, min(seqs), max(seqs), max(ids)
        if near is not None and min(ids) > near and last_seq - first_seq == len(seqs) - 1:
            # None of these is in memory, and the table refuses those that it has.
            connection.execute(_STRAIGHT, (first_seq, last_seq))
        else:
            self._check_new(connection, ids)
            direct: list[object] = []
            for id, seq in zip(ids, seqs, strict=True):
                # A seq from before the generation would not be read again.
                if (near is not None and id > near) or seq < filling.first_seq:
                    direct += (id, seq)
                    change.written.append(id)
                else:
                    change.new[id] = seq
            if direct:
                _DIRECT.run(connection, direct)
        if change.gone:
            # The same seq comes again to an id that went earlier in this transaction, when a leader began in between.
            change.gone.difference_update(zip(ids, seqs, strict=True))
        change.tasks += len(ids)
        change.owed += len(ids)
        change.last_seq = max(change.last_seq, last_seq)
        change.last_id = max(change.last_id, last_id)
        self._write_slices(connection)

    def delete(self, connection: apsw.Connection, gone: str, tasks: Iterable[tuple[str, int]]) -> None:
        """Removes tasks, in the transaction that is open.

        Args:
            connection: the one that writes.
            gone: the tasks as a JSON text.
            tasks: their ids and seqs.
        """
        connection.execute(_DELETE, (gone,))
        change = self._change
        change.gone.update(tasks)
        change.new = {id: seq for id, seq in change.new.items() if (id, seq) not in change.gone}

    def settle(self) -> None:
        """Takes over what the transaction has changed, after its commit."""
        filling, flushing = self._generations
        for id, seq in self._change.gone:
            for generation in (filling, flushing):
                if generation is not None and generation.ids.get(id) == seq:
                    del generation.ids[id]
        # In order, because many ids that are in order in parts are soon sorted.
        filling.ids.update(sorted(self._change.new.items()))
        filling.written.update(self._change.written)
        filling.tasks += self._change.tasks
        filling.last_seq = max(filling.last_seq, self._change.last_seq)
        if self._change.tasks:
            filling.last_id = max(filling.last_id or "", self._change.last_id)
        self._done, self._owed = self._change.done, self._change.owed
        if flushing is not None and self._done == len(self._slices):
            flushing = None
        if flushing is None and filling.tasks >= RECENT_MAX:
            filling, flushing = _Generation(filling.last_seq + 1, filling.last_id), filling
            order = sorted(flushing.ids)
            # One slice at least, because with the last one `ids_from` moves on.
            self._slices = [order[start : start + SLICE_IDS] for start in range(0, max(1, len(order)), SLICE_IDS)]
            self._done = self._owed = 0
        self._generations = filling, flushing
        self.forget()

    def forget(self) -> None:
        """Forgets what the transaction has changed, because it was rolled back."""
        self._change = _Change(self._done, self._owed)

    def _check_new(self, connection: apsw.Connection, ids: Sequence[str]) -> None:
        filling, flushing = self._generations
        new = set(ids)
        taken = [] if len(new) == len(ids) else [id for id in new if ids.count(id) > 1]
        for known in (self._change.new, filling.ids, flushing.ids if flushing is not None else {}):
            # This way round it goes through the new ones alone.
            if not known.keys().isdisjoint(ids):
                taken += [id for id in ids if id in known and (id, known[id]) not in self._change.gone]
        unsure = new - filling.missed
        unsure |= new.intersection(filling.written)
        unsure |= new.intersection(self._change.written)
        if unsure and not taken:
            taken += _in_table(connection, sorted(unsure))
        if taken:
            raise StoreError(
                f"The batch contradicts the store, and nothing of it was written: two tasks would have the id "
                f"{taken[0]!r}."
            )

    def _write_slices(self, connection: apsw.Connection) -> None:
        filling, flushing = self._generations
        while flushing is not None and self._change.done < len(self._slices) and 2 * self._change.owed >= SLICE_IDS:
            rows: list[object] = []
            for id in self._slices[self._change.done]:
                seq = flushing.ids.get(id)
                if seq is not None and (id, seq) not in self._change.gone:
                    rows += (id, seq)
            _SLICE.run(connection, rows)
            self._change.owed -= SLICE_IDS // 2
            self._change.done += 1
            if self._change.done == len(self._slices):
                connection.execute(_PUT_FROM, (filling.first_seq,))


def complete(connection: apsw.Connection) -> None:
    """Writes all ids to the table, in the transaction that is open, for a store that nobody else uses."""
    connection.execute(_COMPLETE)
    connection.execute("INSERT OR REPLACE INTO meta SELECT 'ids_from', coalesce(max(seq), 0) + 1 FROM specs")


def _in_table(connection: apsw.Connection, ids: Sequence[str]) -> dict[str, int]:
    return dict(_decode_found(connection.execute(FOUND, (_encode_json(ids).decode(),)).get))
