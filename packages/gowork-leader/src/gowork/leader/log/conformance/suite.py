"""All rules of the protocol."""

from __future__ import annotations

from gowork.leader.log.conformance.appends import AppendConformance
from gowork.leader.log.conformance.elections import ElectionConformance
from gowork.leader.log.conformance.following import FollowConformance
from gowork.leader.log.conformance.generations import GenerationConformance
from gowork.leader.log.conformance.leaderships import LeadershipConformance
from gowork.leader.log.conformance.notes import NoteConformance


class LogConformance(
    GenerationConformance,
    ElectionConformance,
    LeadershipConformance,
    AppendConformance,
    FollowConformance,
    NoteConformance,
):
    """Checks all rules of the protocol that can be checked within one process."""
