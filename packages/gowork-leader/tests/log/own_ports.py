"""Ports for a server that ends and comes back where it was.

A port that the system has chosen (0) belongs to nobody while its server is down: any process that asks for a port, or
calls somebody, may get it.
"""

from __future__ import annotations

import atexit
import random
import socket
from contextlib import ExitStack

#: Below those that a system gives out by itself (Linux: from 32,768), and above those of well-known services.
_PORTS = range(10_000, 32_768)
#: Tests are given a seed, by which two processes would choose alike.
_CHANCE = random.SystemRandom()
_HELD = ExitStack()
atexit.register(_HELD.close)


def own_ports(count: int) -> list[int]:
    """Returns TCP ports that are free, and that no other test gets until this process has ended."""
    return [_own_port() for _ in range(count)]


def own_addresses(count: int, host: str = "127.0.0.1") -> list[str]:
    """Returns such ports as HOST:PORT."""
    return [f"{host}:{port}" for port in own_ports(count)]


def _own_port() -> int:
    while True:
        port = _CHANCE.choice(_PORTS)
        # UDP's port of the same number stands for it, so that TCP's stays free for the server.
        reserved = socket.socket(type=socket.SOCK_DGRAM)
        try:
            reserved.bind(("127.0.0.1", port))
            with socket.socket() as tried:
                tried.bind(("127.0.0.1", port))
        except OSError:
            reserved.close()
        else:
            _HELD.enter_context(reserved)
            return port
