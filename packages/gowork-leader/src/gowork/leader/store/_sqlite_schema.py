"""The tables of the SQLite store and the numbers that mark its files; docs/decisions has the reasons.

Invariant SPEC-AND-STANDING: every row of `standings` has its row of `specs` with the same seq, and the other way round.
"""

from __future__ import annotations

#: `gowk`, in the header of every file that is a gowork store.
APPLICATION_ID = 0x676F776B
#: The highest format that this version reads, and the one that it writes. Kept in the header's user_version.
FORMAT = 2
#: Every Python that gowork runs on brings a newer one, unless it was built by hand. JSON is asked for apart from it.
SQLITE_VERSION_MIN = (3, 35, 0)

_META = "CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value NOT NULL) WITHOUT ROWID"
_SPECS = """CREATE TABLE specs (
        seq INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        queue TEXT NOT NULL,
        handler TEXT NOT NULL,
        priority INTEGER NOT NULL,
        labels TEXT,
        body BLOB NOT NULL
    )"""
_MEMBERS = """CREATE TABLE members (
        id TEXT NOT NULL PRIMARY KEY,
        address TEXT NOT NULL,
        joined_ms INTEGER NOT NULL
    ) WITHOUT ROWID"""

#: What format 2 has in place of format 1's standings, or on top. The numbers are those of Status: 1 is PENDING, 2 is
#: RUNNING, 5 is ERROR, and what is above 2 has finished. An index ends with the seq by itself.
TABLES_OF_2 = (
    # A lane's key as a JSON text; the number stands for it in standings.
    """CREATE TABLE lanes (
        id INTEGER NOT NULL PRIMARY KEY,
        key TEXT NOT NULL UNIQUE
    )""",
    # The foreign key refuses a move of a task that is not there: the upsert would insert it. `at_ms` is when a pending
    # task is due (0: now), or when a finished one finished. A finished task has its lane no longer, or an old number.
    """CREATE TABLE standings (
        seq INTEGER NOT NULL PRIMARY KEY REFERENCES specs (seq),
        changed INTEGER NOT NULL,
        status INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        lane INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        state BLOB NOT NULL
    )""",
    # Serves watches, which merge the five statuses, the retention, and whoever wants the running ones, which are few.
    "CREATE INDEX standings_by_status ON standings (status, changed)",
    # Without it every list of pending tasks would read every finished one, or sort all pending ones.
    "CREATE INDEX standings_pending ON standings (status) WHERE status = 1",
    "CREATE INDEX standings_waiting ON standings (lane) WHERE status = 1 AND at_ms = 0",
    "CREATE INDEX standings_delayed ON standings (at_ms) WHERE status = 1 AND at_ms > 0",
    "CREATE INDEX standings_expiring ON standings (expires_ms) WHERE status = 1 AND expires_ms > 0",
    """CREATE TABLE queues (
        name TEXT NOT NULL PRIMARY KEY,
        settings BLOB NOT NULL
    ) WITHOUT ROWID""",
    # Of removed tasks, for watchers.
    """CREATE TABLE tombstones (
        changed INTEGER NOT NULL,
        id TEXT NOT NULL,
        PRIMARY KEY (changed, id)
    ) WITHOUT ROWID""",
)
#: The columns of standings.
STANDING_COLUMNS = ("seq", "changed", "status", "at_ms", "lane", "expires_ms", "state")
#: What format 1 had in place of these.
TABLES_OF_1 = (
    """CREATE TABLE standings (
        seq INTEGER NOT NULL PRIMARY KEY REFERENCES specs (seq),
        changed INTEGER NOT NULL,
        status INTEGER NOT NULL,
        state BLOB NOT NULL
    )""",
    "CREATE INDEX standings_by_changed ON standings (changed)",
    "CREATE INDEX standings_unfinished ON standings (seq) WHERE status <= 2",
)
#: {format: its tables in the order of creation}. `specs` is written once; a move rewrites a row of `standings`, which
#: is short.
TABLES = {
    1: (_META, _SPECS, *TABLES_OF_1, _MEMBERS),
    2: (_META, _SPECS, *TABLES_OF_2, _MEMBERS),
}
#: {name: table} that stores of format 2 may lack: version 0.1.0 wrote them without, and goes on with a store that has
#: them. They are added when a store is opened.
ADDED_TO_2 = {
    # What is no task: see `_sqlite_facts`.
    "facts": """CREATE TABLE facts (
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID""",
}
#: What `meta` holds in a new store, beside its identity.
META = {"term": 0, "watch_floor": 0}
