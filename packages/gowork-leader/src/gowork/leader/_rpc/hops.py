"""The metadata of calls that one leader forwards to another: what is handed on, added, and not believed.

A forwarded call has the key FORWARDED, with the peer of its caller. Whoever gets such a call answers it or refuses it,
and never forwards it again. The value is only shown to people, so it needs no proof. Where callers have identities, the
key CALLER_KEY says for whom the call is made. `Access` believes it of leaders alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, TypeAlias, cast

import grpc

from gowork.leader._access.metadata import CALLER_KEY, FORWARDED
from gowork.leader._access.rights import CALLER

#: In the initial metadata of a forwarded answer: where the leader takes such calls itself, as HOST:PORT.
LEADER = "gowork-leader"
#: The reason with which a forwarded call is refused where no term leads. Nothing was done with the call then, so it may
#: be sent to another leader.
NOT_LEADER = "NOT_LEADER"
#: A peer is an address. What is longer was not written by a leader.
_PEER_CHARACTERS_MAX = 100
_OWN = "gowork-"
#: W3C's trace context and baggage.
_TRACES = frozenset({"traceparent", "tracestate", "baggage"})
_STATUS_DETAILS = "grpc-status-details-bin"

Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def handed_on(context: _Context) -> Metadata:
    """Returns the metadata with which a call is forwarded."""
    kept = tuple(
        (key, value)
        for key, value in _pairs(context.invocation_metadata())
        if key in _TRACES or (key.startswith(_OWN) and key not in (FORWARDED, CALLER_KEY))
    )
    caller = CALLER.get()
    named = () if caller is None else ((CALLER_KEY, caller.encoded()),)
    return (*kept, *named, (FORWARDED, context.peer()))


def handed_back(trailing: Any) -> Metadata:
    """Returns the trailing metadata that the caller of a forwarded call gets, from those of the leader."""
    return tuple((key, value) for key, value in _pairs(trailing) if key.startswith(_OWN) or key == _STATUS_DETAILS)


async def hint(context: _Context, address: str) -> None:
    """Tells the caller of a forwarded call, before any answer, where the leader takes such calls itself."""
    # A caller that has just hung up can't be told, and the call ends anyway.
    with contextlib.suppress(grpc.aio.BaseError):
        await context.send_initial_metadata(((LEADER, address),))


def is_forwarded(context: _Context) -> bool:
    """Whether another leader has forwarded this call."""
    return any(key == FORWARDED for key, _ in _pairs(context.invocation_metadata()))


def peer_of(context: _Context) -> str:
    """Returns the peer of the call's caller, also when the call was forwarded."""
    for key, value in _pairs(context.invocation_metadata()):
        if key == FORWARDED and isinstance(value, str):
            return value[:_PEER_CHARACTERS_MAX]
    return context.peer()


def _pairs(metadata: Any) -> Iterable[tuple[str, str | bytes]]:
    return cast("Iterable[tuple[str, str | bytes]]", metadata or ())
