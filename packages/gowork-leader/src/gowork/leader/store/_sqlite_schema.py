"""The tables of the SQLite store and the numbers that mark its files; docs/decisions has the reasons.

Invariant SPEC-AND-STANDING: every row of `standings` has its row of `specs` with the same seq, and the other way round.
"""

from __future__ import annotations

#: `gowk`, in the header of every file that is a gowork store.
APPLICATION_ID = 0x676F776B
#: The highest format that this version reads, and the one that it writes. Kept in the header's user_version.
FORMAT = 1
#: Every Python that gowork runs on brings a newer one, unless it was built by hand. JSON is asked for apart from it.
SQLITE_VERSION_MIN = (3, 35, 0)

#: In the order of creation. `specs` is written once; a move rewrites a row of `standings`, which is short.
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
    # The foreign key refuses a move of a task that is not there: the upsert would insert it.
    """CREATE TABLE standings (
        seq INTEGER NOT NULL PRIMARY KEY REFERENCES specs (seq),
        changed INTEGER NOT NULL,
        status INTEGER NOT NULL,
        state BLOB NOT NULL
    )""",
    "CREATE INDEX standings_by_changed ON standings (changed)",
    # 2 is RUNNING: only PENDING and RUNNING are below. Without it every start would read every finished task.
    "CREATE INDEX standings_unfinished ON standings (seq) WHERE status <= 2",
    """CREATE TABLE members (
        id TEXT NOT NULL PRIMARY KEY,
        address TEXT NOT NULL,
        joined_ms INTEGER NOT NULL
    ) WITHOUT ROWID""",
)
