"""The statements of the log. Each is one transaction, whose isolation is READ COMMITTED.

Each statement that writes begins with the row of `log`, or has only the row of `lease`. So a row that another
transaction has changed meanwhile is looked at anew before it is changed. No transaction waits for its client between
two statements, so that a leader that is stopped leaves no lock behind.
"""

from __future__ import annotations

from typing import NamedTuple

from psycopg import sql

#: The format of the tables.
FORMAT = 1
#: How many entries a segment has.
SEGMENT_ENTRIES = 512

_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE {log} (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    format integer NOT NULL,
    generation text, base bigint NOT NULL, term_floor bigint NOT NULL,
    -- Grows with each generation. The names of segments have it.
    life bigint NOT NULL,
    -- The last term that was given, and how many leaderships were.
    term bigint NOT NULL, token bigint NOT NULL,
    -- The token of the leadership; NULL: nobody leads.
    holder bigint, announcement bytea NOT NULL,
    first_index bigint NOT NULL, last_index bigint NOT NULL,
    -- The generation that a restored backup replaces, and that backup.
    replaces text NOT NULL, backup text NOT NULL
) WITH (fillfactor = 10);
CREATE TABLE {lease} (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), holder bigint, until timestamptz NOT NULL
) WITH (fillfactor = 10);
CREATE TABLE {notes} (key text COLLATE "C" PRIMARY KEY, value bytea NOT NULL, until timestamptz);
INSERT INTO {log} VALUES (true, {format}, NULL, 0, 0, 0, 0, 0, NULL, '', 1, 0, '', '');
INSERT INTO {lease} VALUES (true, NULL, '-infinity')
"""
CREATE_SEGMENT = """
CREATE TABLE {segment} (index bigint PRIMARY KEY, data bytea NOT NULL);
ALTER TABLE {segment} ALTER COLUMN data SET STORAGE EXTERNAL
"""
DROP_SEGMENT = "SET LOCAL lock_timeout = '500ms'; DROP TABLE IF EXISTS {segment}"
_SEGMENTS = (
    "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace({name}) AND relkind = 'r' "
    "AND relname ~ '^entries_[0-9]+_[0-9]+$'"
)
_IS_THERE = """
SELECT to_regclass({log_name}) IS NOT NULL, current_setting('synchronous_commit'), current_setting('fsync'),
    current_setting('server_version_num')::integer
"""
HAS_SEGMENT = "SELECT to_regclass({segment_name}) IS NOT NULL"
# A lease that ends later than it could was given by a clock that has been set back since.
_STATE = """
SELECT format, generation, base, term_floor, life, term, token, log.holder, announcement, first_index, last_index,
    coalesce(log.holder = lease.holder AND until > clock_timestamp()
        AND until <= clock_timestamp() + make_interval(secs => %(lease)s), false),
    pg_is_in_recovery(), replaces, backup
FROM {log} log, {lease} lease
"""
_BEGIN = """
WITH begun AS (
    UPDATE {log} SET generation = %(id)s, base = %(base)s, term_floor = %(floor)s, life = life + 1,
        term = greatest(term, %(floor)s), holder = NULL, announcement = '',
        first_index = %(base)s::bigint + 1, last_index = %(base)s,
        replaces = %(replaces)s, backup = %(backup)s
    WHERE generation IS NOT DISTINCT FROM %(present)s::text
    RETURNING pg_notify({channel}, '')
), freed AS (
    UPDATE {lease} SET holder = NULL WHERE EXISTS (SELECT FROM begun)
), emptied AS (
    DELETE FROM {notes} WHERE EXISTS (SELECT FROM begun)
)
SELECT true FROM begun
"""
# The token tells that nobody was elected since the state was read, when no lease ran.
_ELECT = """
WITH elected AS (
    UPDATE {log} SET term = %(term)s, token = token + 1, holder = token + 1, announcement = %(announcement)s
    WHERE life = %(life)s AND token = %(token)s
        AND first_index <= %(applied)s::bigint + 1 AND last_index >= %(applied)s
    RETURNING holder, pg_notify({channel}, '')
), leased AS (
    UPDATE {lease} lease SET holder = elected.holder,
        until = clock_timestamp() + make_interval(secs => %(lease)s)
    FROM elected
)
SELECT holder FROM elected
"""
_KEEP = """
UPDATE {lease} SET until = clock_timestamp() + make_interval(secs => %(lease)s) WHERE holder = %(token)s RETURNING true
"""
_DEPOSE = """
WITH ended AS (
    UPDATE {log} SET holder = NULL, announcement = '' WHERE holder = %(token)s RETURNING pg_notify({channel}, '')
), freed AS (
    UPDATE {lease} SET holder = NULL WHERE holder = %(token)s AND EXISTS (SELECT FROM ended)
)
SELECT true FROM ended
"""
APPEND = """
WITH held AS (
    UPDATE {log} SET last_index = %(index)s
    WHERE generation = %(generation)s AND term = %(term)s AND holder = %(token)s
        AND last_index = %(index)s::bigint - 1
    RETURNING pg_notify({channel}, '')
)
INSERT INTO {segment} SELECT %(index)s, %(data)s FROM held RETURNING true
"""
ENTRY = "SELECT data FROM {segment} WHERE index = %(index)s"
_PRUNE = """
UPDATE {log} SET first_index = greatest(first_index, least(%(before)s, last_index)) WHERE holder = %(token)s
RETURNING first_index, life
"""
PAGE = """
SELECT index, data FROM (
    SELECT index, data, sum(octet_length(data)) OVER (ORDER BY index) - octet_length(data) AS bytes_before
    FROM {segment} WHERE index > %(after)s
) AS following
WHERE bytes_before < %(bytes)s
    AND EXISTS (SELECT FROM {log} WHERE life = %(life)s AND first_index <= %(after)s::bigint + 1)
ORDER BY index LIMIT %(entries)s
"""
_PUT_NOTE = """
WITH expired AS (
    DELETE FROM {notes} WHERE until <= clock_timestamp() AND key <> %(key)s
)
INSERT INTO {notes} VALUES (%(key)s, %(value)s, clock_timestamp() + make_interval(secs => %(seconds)s))
ON CONFLICT (key) DO UPDATE SET value = excluded.value, until = excluded.until
"""
_DROP_NOTE = "DELETE FROM {notes} WHERE key = %(key)s"
_NOTES = """
SELECT key, value FROM {notes}
WHERE starts_with(key, %(prefix)s) AND (until IS NULL OR until > clock_timestamp())
"""


class State(NamedTuple):
    """What the rows of `log` and `lease` say."""

    format: int
    generation: str | None
    base: int
    term_floor: int
    life: int
    term: int
    token: int
    holder: int | None
    announcement: bytes
    first: int
    last: int
    is_led: bool
    is_standby: bool
    replaces: str
    backup: str


class Statements:
    """The statements of the log in one schema."""

    def __init__(self, schema: str) -> None:
        self._parts: dict[str, sql.Composable] = {
            "schema": sql.Identifier(schema),
            "name": sql.Literal(sql.Identifier(schema).as_string(None)),
            "channel": sql.Literal(schema),
            "format": sql.Literal(FORMAT),
            **{table: sql.Identifier(schema, table) for table in ("log", "lease", "notes")},
            "log_name": sql.Literal(sql.Identifier(schema, "log").as_string(None)),
        }
        self._schema = schema
        self.create = self._composed(_SCHEMA)
        self.is_there = self._composed(_IS_THERE)
        self.state = self._composed(_STATE)
        self.begin = self._composed(_BEGIN)
        self.elect = self._composed(_ELECT)
        self.keep = self._composed(_KEEP)
        self.depose = self._composed(_DEPOSE)
        self.prune = self._composed(_PRUNE)
        self.put_note = self._composed(_PUT_NOTE)
        self.drop_note = self._composed(_DROP_NOTE)
        self.notes = self._composed(_NOTES)
        self.segments = self._composed(_SEGMENTS)
        self.listen = self._composed("LISTEN {schema}")

    def on(self, segment: str, text: str) -> bytes:
        """Returns one of the statements that are about a segment."""
        return self._composed(text, segment)

    def _composed(self, text: str, segment: str = "") -> bytes:
        name = sql.Identifier(self._schema, segment or "log")
        parts = {**self._parts, "segment": name, "segment_name": sql.Literal(name.as_string(None))}
        return sql.SQL(text).format(**parts).as_bytes(None)


def segment_of(life: int, index: int) -> str:
    """Returns the name of the segment that an entry belongs to."""
    return f"entries_{life}_{index // SEGMENT_ENTRIES}"


def is_over(segment: str, life: int, first: int) -> bool:
    """Returns whether a segment has no entry that is needed."""
    _, its_life, number = segment.split("_")
    return int(its_life) < life or (int(its_life) == life and (int(number) + 1) * SEGMENT_ENTRIES <= first)
