"""Looks names up in threads of the plugin's own, because a name server that does not answer holds each for seconds."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp.abc import AbstractResolver, ResolveResult

#: How many names a runner looks up at once. Other calls wait, within their own time limits.
LOOKUPS_MAX = 64

_threads = ThreadPoolExecutor(LOOKUPS_MAX, "gowork-http-lookup")


class Lookups(AbstractResolver):
    """Asks the system, as aiohttp's own does, but not in the loop's threads, which all handlers of a runner share."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Returns the addresses of a name.

        Raises:
            OSError: when there are none.
        """
        ask = partial(
            socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        found = await asyncio.get_running_loop().run_in_executor(_threads, ask)
        return [
            ResolveResult(
                hostname=host,
                host=str(place[0]),
                port=int(place[1]),
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, place in found
        ]

    async def close(self) -> None:
        """Keeps the threads, which all tasks share."""
