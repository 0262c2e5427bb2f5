"""What a leader says of itself to the others, through the log."""

from __future__ import annotations

import msgspec
from msgspec import Struct


class Announcement(Struct, frozen=True):
    """Who a leader is, and where it is reached. New fields get defaults, because leaders of other versions read it."""

    #: Its name among the leaders.
    name: str
    #: Where workers, clients and probes reach it, as HOST:PORT.
    cluster: str
    scheduler: str
    http: str
    #: The id of its store.
    store_id: str
    #: The version of gowork-leader.
    version: str
    #: When it stood for election, in wall-clock milliseconds; 0 where it says so without standing.
    stood_ms: int = 0


encode = msgspec.json.Encoder().encode
#: Reads what `encode` wrote. It raises msgspec.MsgspecError.
decode = msgspec.json.Decoder(Announcement).decode
#: Stands for what can't be read.
UNREADABLE = Announcement("unreadable", "", "", "", "", "")
