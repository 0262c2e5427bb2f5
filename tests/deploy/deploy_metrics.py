"""Reads from docs/metrics.md which metrics exist, and finds the metrics and labels that a PromQL expression uses."""

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


_ROW = re.compile(r"^\| `((?:gowork|rpc)_[a-z_]+)` \| (\w+) \| [^|]+ \|\s*([^|]*?)\s*\|", re.MULTILINE)


def _on_the_page() -> dict[str, Metric]:
    rows = _ROW.findall(METRICS_PAGE.read_text())
    assert len(rows) == len({name for name, _, _ in rows}), "a metric has two rows"
    return {name: metric(kind, *re.findall(r"\w+", labels)) for name, kind, labels in rows}


#: {name: kind and labels}, as docs/metrics.md has them; a test holds that page to what leaders and workers show.
METRICS = _on_the_page()
#: The series that Prometheus itself adds, and the labels that it gives to each series of a target.
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


def names_in(expression: str) -> set[str]:
    """The names of metrics and recorded series in the expression."""
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
    """A sentence for each label that the expression matches or groups by and that its series don't have."""
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
