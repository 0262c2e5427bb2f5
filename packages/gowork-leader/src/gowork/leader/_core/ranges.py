"""Which versions of its handler's plugin may run a task.

A range is kept as an entry of the task's selector, under a key that no label can have. So lanes, rankings and forms
tell tasks with ranges apart as they do those with selectors, and dispatch asks nothing of each task. An earlier leader
that finds such a task in a store or a log gives it to nobody, because no worker carries that label.
"""

from __future__ import annotations

from gowork.base.version_ranges import is_within
from gowork.leader._core.model import HandlerPolicy

#: The key of a range in a selector. Labels are printable, so it sorts before all of them.
RANGE_KEY = "\x1fplugin_version"
#: How many ranges the tasks may have that wait to be run. With more needs than `roster.RANKINGS_MAX`, each batch would
#: make all rankings again, so ranges alone stay well below.
RANGES_MAX = 256

Selector = tuple[tuple[str, str], ...]


def range_of(selector: Selector) -> str:
    """Returns the range that a task asks for; empty when it takes any version."""
    return selector[0][1] if selector and selector[0][0] == RANGE_KEY else ""


def labels_of(selector: Selector) -> Selector:
    """Returns the labels that a task asks for."""
    return selector[1:] if selector and selector[0][0] == RANGE_KEY else selector


def has_version(policy: HandlerPolicy, wanted: str) -> bool:
    """Whether a worker has the handler (`policy`) from a plugin whose version is within the range."""
    return policy.plugin is not None and is_within(policy.plugin.version, wanted)
