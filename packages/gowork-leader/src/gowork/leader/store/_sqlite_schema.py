"""The tables of the SQLite store and the numbers that mark its files; docs/decisions has the reasons.

Invariant SPEC-AND-STANDING: every row of `standings` has a row of `specs` with the same seq, and the other way round.
"""

from __future__ import annotations

#: `gowk`, in the header of every gowork store.
APPLICATION_ID = 0x676F776B
#: The format that this version writes. It is in the header's user_version.
FORMAT = 4
#: Format 4 that belongs to a log: the highest format that this version reads.
FORMAT_LOGGED = 5
#: {format: the one that belongs to a log, of the same tables}. Versions that know no log refuse the latter.
LOGGED = {2: 3, 4: 5}
#: {format: the older one that copies are made in, so that each version reads them}; see `_sqlite_lower`.
LOWER = {4: 2, 5: 3}
#: Every Python that gowork runs on brings a newer SQLite, unless it was built by hand. JSON is checked apart from this.
SQLITE_VERSION_MIN = (3, 35, 0)

_META = "CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value NOT NULL) WITHOUT ROWID"
#: As in formats 1 to 3.
SPECS_OF_1 = """CREATE TABLE specs (
        seq INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        queue TEXT NOT NULL,
        handler TEXT NOT NULL,
        priority INTEGER NOT NULL,
        labels TEXT,
        body BLOB NOT NULL
    )"""
#: As in formats 4 and 5.
SPECS = SPECS_OF_1.replace(" UNIQUE", "")
#: In the place of the index of the unique ids, with the same rows; see `_sqlite_ids`.
IDS = """CREATE TABLE ids (
        id TEXT NOT NULL PRIMARY KEY,
        seq INTEGER NOT NULL
    ) WITHOUT ROWID"""
_MEMBERS = """CREATE TABLE members (
        id TEXT NOT NULL PRIMARY KEY,
        address TEXT NOT NULL,
        joined_ms INTEGER NOT NULL
    ) WITHOUT ROWID"""

#: The tables and indexes since format 2 that replace format 1's standings or are new. The statuses are those of Status:
#: 1 is PENDING, 2 is RUNNING, 5 is ERROR, and above 2 a task has finished. SQLite adds the seq to the end of every
#: index.
TABLES_OF_2 = (
    # `key` is a lane's key as a JSON text. `id` stands for it in standings.
    """CREATE TABLE lanes (
        id INTEGER NOT NULL PRIMARY KEY,
        key TEXT NOT NULL UNIQUE
    )""",
    # The foreign key refuses a move of a task that is not there, which the upsert would insert otherwise. `at_ms` is
    # when a pending task is due (0: now), or when a finished one finished. The lane of a finished task means nothing.
    """CREATE TABLE standings (
        seq INTEGER NOT NULL PRIMARY KEY REFERENCES specs (seq),
        changed INTEGER NOT NULL,
        status INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        lane INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        state BLOB NOT NULL
    )""",
    # Serves watches, which merge the five statuses, retention, and reads of the running tasks, which are few.
    "CREATE INDEX standings_by_status ON standings (status, changed)",
    # Without it every list of pending tasks would read all finished ones, or sort all pending ones.
    "CREATE INDEX standings_pending ON standings (status) WHERE status = 1",
    "CREATE INDEX standings_waiting ON standings (lane) WHERE status = 1 AND at_ms = 0",
    "CREATE INDEX standings_delayed ON standings (at_ms) WHERE status = 1 AND at_ms > 0",
    "CREATE INDEX standings_expiring ON standings (expires_ms) WHERE status = 1 AND expires_ms > 0",
    """CREATE TABLE queues (
        name TEXT NOT NULL PRIMARY KEY,
        settings BLOB NOT NULL
    ) WITHOUT ROWID""",
    # The removed tasks, for watchers.
    """CREATE TABLE tombstones (
        changed INTEGER NOT NULL,
        id TEXT NOT NULL,
        PRIMARY KEY (changed, id)
    ) WITHOUT ROWID""",
)
#: The columns of standings.
STANDING_COLUMNS = ("seq", "changed", "status", "at_ms", "lane", "expires_ms", "state")
#: The tables and indexes of format 1 that TABLES_OF_2 replaces.
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
#: {format: its tables in the order of creation}. A row of `specs` is written once. A move rewrites only the task's row
#: of `standings`, which is short.
TABLES = {
    1: (_META, SPECS_OF_1, *TABLES_OF_1, _MEMBERS),
    2: (_META, SPECS_OF_1, *TABLES_OF_2, _MEMBERS),
    3: (_META, SPECS_OF_1, *TABLES_OF_2, _MEMBERS),
    4: (_META, SPECS, IDS, *TABLES_OF_2, _MEMBERS),
    5: (_META, SPECS, IDS, *TABLES_OF_2, _MEMBERS),
}
#: {name: table} of tables that stores of format 2 may lack, because version 0.1.0 made stores without them. It can use
#: stores that have them. They are added when a store is opened.
ADDED_TO_2 = {
    # See `_sqlite_facts`.
    "facts": """CREATE TABLE facts (
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID""",
}
#: The rows of `meta` that each format has, besides its identity. `_sqlite_meta` adds others.
META = {"term": 0, "watch_floor": 0}
#: The rows of `meta` in a new store, besides its identity. Tasks before `ids_from` have their ids in `ids`.
META_OF_4 = {**META, "ids_from": 1}
