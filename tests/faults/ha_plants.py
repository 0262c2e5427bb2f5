"""How each bug of ha_planted.py is found: by which finding, after which faults. Only a log in etcd has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ha_faults import Kind


class Plant(NamedTuple):
    """How a bug is found."""

    #: What a finding begins with.
    rule: str
    #: {fault that brings it out: how often that is done}
    deck: Mapping[Kind, int]


_LINEAR = "calls about a task are linearizable"
#: {name of the bug: how it is found}
PLANTS: Mapping[str, Plant] = {
    # The store of the leader that was killed is ahead of the log, and refuses to go on.
    "acknowledges-early": Plant("nobody needs to help", {Kind.KILL_LEADER: 3}),
    "ignores-that-it-is-deposed": Plant(_LINEAR, {Kind.CUT_LEADER_FROM_LOG: 1, Kind.STOP_LEADER: 2}),
    "repeats-terms": Plant("each term has one leader", {Kind.KILL_LEADER: 1}),
    "applies-less": Plant("stores that have applied the same entries are equal", {Kind.KILL_FOLLOWER: 2}),
    "drops-acknowledged": Plant("acknowledged tasks are never lost", {Kind.KILL_LEADER: 1}),
    "grants-unrecorded": Plant("every execution is an attempt on record", {Kind.KILL_LEADER: 3}),
    "reads-unconfirmed": Plant(_LINEAR, {Kind.CUT_LEADER_FROM_LOG: 2}),
}
