"""The W3C trace context as text: what it may be, and what it says (https://www.w3.org/TR/trace-context/).

Knows nothing of OpenTelemetry, so that whoever only passes contexts on needs none of it.
"""

from __future__ import annotations

import re

from gowork.proto import limits

#: Version, trace id, span id and flags; later versions may say more behind a hyphen.
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16
_SAMPLED = 1


def is_traceparent(text: str) -> bool:
    """Whether this is a traceparent, of version 00 or of a later one in the form that the standard sets for those."""
    match = _FORM.fullmatch(text) if len(text) <= limits.TRACEPARENT_BYTES_MAX else None
    if match is None:
        return False
    version, trace_id, span_id, _, more = match.groups()
    return version != "ff" and trace_id != _NO_TRACE and span_id != _NO_SPAN and (version != "00" or more is None)


def is_tracestate(text: str) -> bool:
    """Whether this may go along with a traceparent. Only the system that made an entry knows what it means."""
    return len(text) <= limits.TRACESTATE_BYTES_MAX and text.isascii() and text.isprintable()


def is_sampled(traceparent: str) -> bool:
    """Whether the span of a valid traceparent is recorded; False for an empty one."""
    return bool(traceparent) and bool(int(traceparent[53:55], 16) & _SAMPLED)


def sampled_trace_id(traceparent: str) -> str:
    """The trace id of a valid traceparent, in hexadecimal; empty when there is none, or nothing of it is recorded.

    It is what exemplars carry: a trace that can be looked up.
    """
    return traceparent[3:35] if is_sampled(traceparent) else ""
