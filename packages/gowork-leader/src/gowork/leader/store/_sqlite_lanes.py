"""The numbers of lanes. A task's row has the lane's number in place of its key."""

from __future__ import annotations

from collections.abc import Iterable

import apsw
import msgspec

from gowork.leader._core.model import LaneKey
from gowork.leader.store._sqlite_rows import RowsStatement

#: How many numbers are kept in memory. Others are looked up again.
_CACHED_MAX = 100_000
#: When the table has more lanes than this, `drop_unused` removes the unused ones, because concurrency keys come and go.
_UNUSED_MAX = 10_000

_encode_json = msgspec.json.Encoder().encode
_decode_ids = msgspec.json.Decoder(list[tuple[int, str]]).decode
_decode_key = msgspec.json.Decoder(LaneKey).decode

_LANES = RowsStatement("lanes", ("key",), "ON CONFLICT (key) DO NOTHING")
_IDS = """
    SELECT json_group_array(json_array(lanes.id, lanes.key))
    FROM json_each(?) AS wanted CROSS JOIN lanes ON lanes.key = wanted.value
"""
#: Lanes of unfinished tasks stay, because a running task may become PENDING again under the number that it has.
DROP_UNUSED = """
    DELETE FROM lanes WHERE id NOT IN (
        SELECT lane FROM standings INDEXED BY standings_by_status WHERE status IN (1, 2)
    )
"""


def key_text(lane: LaneKey) -> str:
    """Returns the lane's key as the table has it."""
    return _encode_json(lane).decode()


def lane_of(text: str) -> LaneKey:
    """Reads what key_text wrote."""
    return _decode_key(text)


class LaneIds:
    """Knows the numbers of lanes, for the one connection that writes."""

    def __init__(self) -> None:
        self._ids: dict[LaneKey, int] = {}

    def numbers(self, connection: apsw.Connection, lanes: Iterable[LaneKey]) -> list[int]:
        """Returns the number of each of these lanes. New lanes get their numbers in the transaction that is open.

        When that is rolled back, `forget` must be called.
        """
        wanted = list(lanes)
        missing = dict.fromkeys(lane for lane in wanted if lane not in self._ids)
        if missing:
            if len(self._ids) + len(missing) > _CACHED_MAX:
                self._ids, missing = {}, dict.fromkeys(wanted)
            texts = {key_text(lane): lane for lane in missing}
            _LANES.run(connection, list(texts))
            found = connection.execute(_IDS, (_encode_json(list(texts)).decode(),)).get
            for number, text in _decode_ids(found):
                self._ids[texts[text]] = number
        return [self._ids[lane] for lane in wanted]

    def forget(self) -> None:
        """Forgets all numbers, because a transaction that gave some was rolled back."""
        self._ids = {}


def drop_unused(connection: apsw.Connection) -> None:
    """Removes lanes without unfinished tasks, when there are more than _UNUSED_MAX lanes."""
    count = connection.execute("SELECT count(*) FROM lanes").get
    if count > _UNUSED_MAX:
        connection.execute(DROP_UNUSED)
