"""Reads the rules and alerts of deploy/prometheus, and checks that an expression uses only metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import deploy_metrics as metrics
import yaml

FOLDER = Path(__file__).parents[2] / "deploy/prometheus"


def rules(file: str) -> list[dict[str, Any]]:
    read = yaml.safe_load((FOLDER / "rules" / file).read_text())
    return [rule for group in read["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yaml")}
RECORDED = {rule["record"]: rule["expr"] for rule in rules("recording.yaml")}


def recorded_labels() -> dict[str, frozenset[str]]:
    """The labels of each recorded series, by which its rule groups: its name has them before the first colon."""
    found = {}
    for name, expression in RECORDED.items():
        (labels, *others) = {frozenset(re.split(r",\s*", group)) for group in re.findall(r"by \(([^)]*)\)", expression)}
        assert not others, name
        labels -= {"le"}
        assert name.split(":")[0] == "_".join(sorted(labels, key=name.index)), name
        found[name] = labels
    return found


def must_be_known(expression: str) -> None:
    """Fails when the expression uses a metric or a label that nothing exports or records."""
    for name in metrics.names_in(expression):
        assert name in RECORDED or name in metrics.OF_PROMETHEUS or metrics.base_of(name) in metrics.METRICS, name
    assert metrics.wrong_labels(expression, recorded_labels()) == []
