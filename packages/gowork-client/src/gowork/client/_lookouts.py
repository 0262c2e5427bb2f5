"""How a client looks whether anybody is there, when nothing comes back from an address."""

from __future__ import annotations

import grpc

#: How often it looks for silence while calls are open, in seconds.
LOOK_SECONDS = 0.25
#: A call that every leader answers by itself, whether or not it leads. Its request and answer are not looked at.
PING = "/grpc.health.v1.Health/Check"
#: How long a leader has to answer it, in seconds.
PING_SECONDS = 1.0


def shows_life(error: grpc.RpcError) -> bool:
    """Whether the error of PING shows that the address is not silent: any does, except that no answer came."""
    return error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
