"""Which metrics there are, and which of them a PromQL expression asks for, by which labels.

docs/metrics.md, where it exists, says what there is; until then METRICS does, and when it exists it must have them all.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
METRICS_PAGE = ROOT / "docs/metrics.md"


class Metric(NamedTuple):
    kind: str
    labels: frozenset[str] = frozenset()


def metric(kind: str, *labels: str) -> Metric:
    return Metric(kind, frozenset(labels))


#: {name: kind and labels}, as leaders and workers are to export them.
METRICS = {
    "gowork_members": metric("gauge", "state"),
    "gowork_member_up": metric("gauge", "worker"),
    "gowork_worker_heartbeats_total": metric("counter", "result"),
    "gowork_worker_heartbeat_gap_seconds": metric("histogram"),
    "gowork_worker_slots": metric("gauge", "state"),
    "gowork_worker_loop_lag_seconds": metric("histogram"),
    "gowork_tasks_submitted_total": metric("counter", "queue", "handler", "outcome"),
    "gowork_task_schedule_to_start_seconds": metric("histogram", "queue"),
    "gowork_task_execution_seconds": metric("histogram", "queue", "handler", "status"),
    "gowork_tasks_finished_total": metric("counter", "queue", "handler", "status"),
    "gowork_task_attempts_total": metric("counter", "queue", "outcome"),
    "gowork_tasks_reassigned_total": metric("counter", "reason"),
    "gowork_stale_reports_total": metric("counter"),
    "gowork_tasks_quarantined_total": metric("counter"),
    "gowork_queue_tasks": metric("gauge", "queue", "state"),
    "gowork_queue_waiting_tasks": metric("gauge", "queue", "reason"),
    "gowork_queue_oldest_seconds": metric("gauge", "queue"),
    "gowork_retention_oldest_seconds": metric("gauge"),
    "gowork_store_commit_seconds": metric("histogram"),
    "gowork_store_commit_tasks": metric("histogram"),
    "gowork_leader_is_leader": metric("gauge"),
    "gowork_leader_term": metric("gauge"),
    "gowork_leader_transitions_total": metric("counter"),
    "gowork_leader_failover_seconds": metric("histogram"),
    "rpc_server_call_duration_seconds": metric("histogram", "method", "code"),
}
#: What Prometheus itself says of a target, and the labels that it gives each series.
OF_PROMETHEUS = {
    "up": metric("gauge"),
    "ALERTS": metric("gauge", "alertname", "alertstate", "severity", "queue", "handler", "reason"),
}
OF_TARGETS = frozenset({"job", "instance"})

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_MATCHERS = re.compile(r"([a-zA-Z_:][\w:]*)?\s*\{([^}]*)\}")
_NAME = re.compile(r"(?<![\w.$:])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])")
_WORDS = {"and", "or", "unless", "offset", "bool"}


def known() -> set[str]:
    """The names of all metrics that leaders and workers export."""
    return names_on_the_page() if METRICS_PAGE.is_file() else set(METRICS)


def names_on_the_page() -> set[str]:
    """Each name that docs/metrics.md has in backquotes."""
    return set(re.findall(r"`((?:gowork|rpc)_[a-z_]+)`", METRICS_PAGE.read_text()))


def names_in(expression: str) -> set[str]:
    """The metrics and recorded series that it asks for, as they stand there."""
    bare = re.sub(r"\{[^}]*\}", "", _QUOTED.sub('""', expression))
    bare = re.sub(r"\[[^\]]*\]", "", _GROUPING.sub("", bare))
    return set(_NAME.findall(bare)) - _WORDS


def base_of(name: str) -> str:
    """The metric that a series belongs to: a histogram has three kinds of series."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if METRICS.get(base, metric("")).kind == "histogram" else name


def labels_of(name: str, recorded: dict[str, frozenset[str]]) -> frozenset[str]:
    """The labels that the series of this name have."""
    if name in recorded:
        return recorded[name]
    found = METRICS.get(base_of(name)) or OF_PROMETHEUS[name]
    return found.labels | OF_TARGETS | ({"le"} if name.endswith("_bucket") else frozenset())


def wrong_labels(expression: str, recorded: dict[str, frozenset[str]]) -> list[str]:
    """Labels that it matches or groups by and that its series don't have, each with the reason."""
    bare = _QUOTED.sub('""', expression)
    wrong = []
    for name, matchers in _MATCHERS.findall(bare):
        wanted = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        wrong += [f"{name} has no label {label}" for label in sorted(wanted - labels_of(name, recorded))]
    there = frozenset().union(*(labels_of(name, recorded) for name in names_in(expression)))
    for group in _GROUPING.findall(bare):
        labels = {label.strip() for label in group.split(",")} - {""}
        wrong += [f"nothing in {expression!r} has the label {label}" for label in sorted(labels - there)]
    return wrong
