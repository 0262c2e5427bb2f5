"""What is asked of the engine, and who waits for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gowork.leader._core.commands import AnyCommand, Refused
from gowork.leader._core.state import State

#: A question about the state; it must copy what it keeps.
Read = Callable[[State], Any]
#: Whoever waits for an answer.
Caller = asyncio.Future[Any]
#: What was asked, and who waits; None: nobody does.
Item = tuple[AnyCommand | Read, Caller | None]


class RefusedError(Exception):
    """What was asked is refused; nothing has come of it."""

    def __init__(self, refused: Refused) -> None:
        self.refused = refused
        super().__init__(refused.message)
