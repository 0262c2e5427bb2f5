"""What is asked of the engine, and who waits for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gowork.leader._core.commands import AnyCommand, Refused
from gowork.leader._core.state import State

#: A question about the state. It must copy what it keeps.
Read = Callable[[State], Any]
#: Who waits for an answer.
Caller = asyncio.Future[Any]
#: (what was asked, who waits for the answer); None: nobody waits.
Item = tuple[AnyCommand | Read, Caller | None]


class RefusedError(Exception):
    """A command was refused and has changed nothing."""

    def __init__(self, refused: Refused) -> None:
        self.refused = refused
        super().__init__(refused.message)
