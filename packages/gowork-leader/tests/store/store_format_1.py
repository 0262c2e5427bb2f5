"""Stores of format 1, as version 0.1.0 wrote them."""

from __future__ import annotations

from pathlib import Path

import apsw

from gowork.leader.store.codec import encode_standing
from gowork.leader.store.protocol import Record

#: As version 0.1.0 wrote them, to the letter.
TABLES = (
    "CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    """CREATE TABLE specs (
        seq INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        queue TEXT NOT NULL,
        handler TEXT NOT NULL,
        priority INTEGER NOT NULL,
        labels TEXT,
        body BLOB NOT NULL
    )""",
    """CREATE TABLE standings (
        seq INTEGER NOT NULL PRIMARY KEY REFERENCES specs (seq),
        changed INTEGER NOT NULL,
        status INTEGER NOT NULL,
        state BLOB NOT NULL
    )""",
    "CREATE INDEX standings_by_changed ON standings (changed)",
    "CREATE INDEX standings_unfinished ON standings (seq) WHERE status <= 2",
    """CREATE TABLE members (
        id TEXT NOT NULL PRIMARY KEY,
        address TEXT NOT NULL,
        joined_ms INTEGER NOT NULL
    ) WITHOUT ROWID""",
)
TERM = 7
IDENTITY = "0123456789abcdef0123456789abcdef"


def write_store(path: Path, records: list[Record]) -> None:
    """A store of format 1 with these tasks."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA application_id = 0x676F776B")
    connection.execute("PRAGMA user_version = 1")
    connection.execute("BEGIN")
    for statement in TABLES:
        connection.execute(statement)
    connection.executemany("INSERT INTO meta VALUES (?, ?)", [("identity", IDENTITY), ("term", TERM)])
    connection.execute("INSERT INTO members VALUES ('m', 'a:1', 5)")
    for record in records:
        asked = (record.seq, record.id, "default", "", 1, '{"a":"b"}', record.body)
        connection.execute("INSERT INTO specs VALUES (?, ?, ?, ?, ?, ?, ?)", asked)
        state = encode_standing(record.standing)
        row = (record.seq, record.changed, int(record.standing.status), state)
        connection.execute("INSERT INTO standings VALUES (?, ?, ?, ?)", row)
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
