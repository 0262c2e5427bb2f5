"""The record of who had the cluster changed, and of who was denied what: lines of the logger gowork.leader.audit."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc

from gowork.leader._access.rights import Identity
from gowork.proto.status import Refusal

_log = logging.getLogger("gowork.leader.audit")

#: How many denials are logged in one second. The others are counted, and the next line says how many they were, so that
#: callers can't fill the log.
DENIALS_MAX = 20
#: How many characters of a request are logged.
_ABOUT_CHARACTERS = 300
#: With these a call ends that was refused because of who made it.
_DENIALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
#: The reason of a call that is refused because its caller has reached a limit.
CALLER_LIMIT = "CALLER_LIMIT"
#: The reasons of refusals that are counted. They are shown from the beginning, so that a rate has the first one, too.
_REASONS = (
    "ADDRESS_NOT_ALLOWED",
    "AUTHENTICATOR_FAILED",
    "CALLER_UNUSABLE",
    "CERTIFICATE_UNUSABLE",
    "NOT_A_LEADER",
    "NOT_THE_OWNER",
    "NO_IDENTITY",
    "NO_ROLE",
    "OUT_OF_BOUNDS",
    "REVOKED",
    "ROLE_MISSING",
    "TOKEN_UNKNOWN",
    "TOKEN_UNUSABLE",
    CALLER_LIMIT,
)

Recorder: TypeAlias = "Callable[[Refusal], None]"
#: Records how the call that is served now, or a part of it, is refused; None: nobody asks who callers are.
RECORDER: ContextVar[Recorder | None] = ContextVar("RECORDER", default=None)


class Audit:
    """Writes the record."""

    def __init__(self) -> None:
        self._since = 0.0
        self._logged = self._left_out = 0
        #: {reason: how many calls were refused with it because of who made them, or because of their caller's limits}
        self.refused: Counter[str] = Counter(dict.fromkeys(_REASONS, 0))

    def done(self, call: str, caller: Identity | None, peer: str, request: Any) -> None:
        """Notes a call that changes the cluster, as it begins."""
        # None of these requests has a payload.
        about = " ".join(str(request).split())[:_ABOUT_CHARACTERS]
        who = "anybody" if caller is None else caller.words
        _log.info("admin call", extra={"call": call, "caller": who, "peer": peer, "about": about})

    def note(self, call: str, refusal: Refusal, peer: str) -> None:
        """Notes a call that was refused, if that was because of who made it."""
        if refusal.code in _DENIALS:
            self.refused[refusal.reason] += 1
            self._denied(call, refusal, peer)
        elif refusal.reason == CALLER_LIMIT:
            self.refused[CALLER_LIMIT] += 1

    def _denied(self, call: str, refusal: Refusal, peer: str) -> None:
        # How often something is logged is no decision of the engine's.
        now = time.monotonic()
        if now - self._since >= 1:
            self._since, self._logged = now, 0
        if self._logged >= DENIALS_MAX:
            self._left_out += 1
            return
        self._logged += 1
        fields = {"call": call, "peer": peer, "code": refusal.code.name, "reason": refusal.message}
        if self._left_out:
            fields["denials_left_out"] = str(self._left_out)
            self._left_out = 0
        _log.warning("denied", extra=fields)
