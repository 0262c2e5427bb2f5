"""Logs: what leaders ask of a log that they share, how they find one, and all that the author of one needs.

This module is public, and so is `gowork.leader.log.conformance`. A log imports nothing else of the leader.
"""

from gowork.leader.log.protocol import (
    ENTRY_BYTES_MAX,
    FOLLOW_SECONDS,
    TERM_BITS,
    Candidate,
    Generation,
    GenerationError,
    Leader,
    Leadership,
    LeadershipLostError,
    Log,
    LogDamagedError,
    LogEntry,
    LogError,
    LogFullError,
    LogRefusedError,
    LogUnreachableError,
    NotElectedError,
    PrunedError,
    Span,
    TermsUsedUpError,
    next_term,
)
from gowork.leader.log.registry import ENTRY_POINT_GROUP, LogMaker, LogRegistry, hookimpl, open_log

__all__ = [
    "ENTRY_BYTES_MAX",
    "ENTRY_POINT_GROUP",
    "FOLLOW_SECONDS",
    "TERM_BITS",
    "Candidate",
    "Generation",
    "GenerationError",
    "Leader",
    "Leadership",
    "LeadershipLostError",
    "Log",
    "LogDamagedError",
    "LogEntry",
    "LogError",
    "LogFullError",
    "LogMaker",
    "LogRefusedError",
    "LogRegistry",
    "LogUnreachableError",
    "NotElectedError",
    "PrunedError",
    "Span",
    "TermsUsedUpError",
    "hookimpl",
    "next_term",
    "open_log",
]
