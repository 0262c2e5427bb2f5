"""Checks and reads the W3C trace context as text (https://www.w3.org/TR/trace-context/).

It does not import OpenTelemetry, so that code that only passes contexts on does not need it.
"""

from __future__ import annotations

import re

from gowork.proto import limits

#: Version, trace id, span id and flags. Later versions may add more after a hyphen.
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16
_SAMPLED = 1


def is_traceparent(text: str) -> bool:
    """Whether the text is a traceparent, of version 00, or of a later version in the form that the standard sets."""
    match = _FORM.fullmatch(text) if len(text) <= limits.TRACEPARENT_BYTES_MAX else None
    if match is None:
        return False
    version, trace_id, span_id, _, more = match.groups()
    return version != "ff" and trace_id != _NO_TRACE and span_id != _NO_SPAN and (version != "00" or more is None)


def is_tracestate(text: str) -> bool:
    """Whether the text may be a tracestate: short enough, printable ASCII. Its entries are not checked further.

    Only the system that made an entry knows what it means.
    """
    return len(text) <= limits.TRACESTATE_BYTES_MAX and text.isascii() and text.isprintable()


def is_sampled(traceparent: str) -> bool:
    """Whether the span of a valid traceparent is recorded; False for an empty one."""
    return bool(traceparent) and bool(int(traceparent[53:55], 16) & _SAMPLED)


def sampled_trace_id(traceparent: str) -> str:
    """Returns the trace id of a valid traceparent, in hexadecimal; empty for an empty one, or one not recorded.

    Exemplars carry it, so that the trace can be looked up.
    """
    return traceparent[3:35] if is_sampled(traceparent) else ""
