"""The committed dashboards of deploy/grafana: they query metrics that exist, and say what to do.

`nox -s dashboards -- --check` compares them with the code that they are generated from.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deploy_rules as rules
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/grafana"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))}
PANELS = [
    pytest.param(name, panel, id=f"{name}: {panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
each_board = pytest.mark.parametrize("name", BOARDS)
each_panel = pytest.mark.parametrize(("name", "panel"), PANELS)


def expressions(panel: Any) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def variables(name: str) -> list[dict[str, Any]]:
    return list(BOARDS[name]["templating"]["list"])


def filled_in(expression: str) -> str:
    """The expression as Grafana sends it when all values are chosen."""
    return re.sub(r"\$[a-z]+", ".*", expression.replace("$__rate_interval", "1m"))


def everything_asked() -> Iterator[str]:
    for parameter in PANELS:
        yield from expressions(parameter.values[1])


def test_there_are_boards_for_the_cluster_for_queues_and_for_handlers() -> None:
    assert list(BOARDS) == ["gowork-cluster", "gowork-handlers", "gowork-queues"]
    assert [board["uid"] for board in BOARDS.values()] == list(BOARDS)


@each_panel
def test_every_panel_has_a_unit_and_says_what_to_do(name: str, panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len(panel["description"].split()) >= 8
    assert panel["targets"]


@each_panel
def test_panels_ask_for_metrics_and_labels_that_exist(name: str, panel: dict[str, Any]) -> None:
    for expression in expressions(panel):
        rules.must_be_known(expression)


@each_panel
def test_panels_send_nothing_but_the_boards_own_variables(name: str, panel: dict[str, Any]) -> None:
    known = {variable["name"] for variable in variables(name)} | {"__rate_interval"}
    assert set(re.findall(r"\$(\w+)", " ".join(expressions(panel)))) <= known
    assert panel["datasource"]["uid"] == "${datasource}"


@each_panel
def test_sections_of_the_runbook_that_panels_name_exist(name: str, panel: dict[str, Any]) -> None:
    assert set(re.findall(r"\bGowork\w+", panel["description"])) <= set(rules.ALERTS)


@each_panel
def test_durations_from_histograms_lead_to_traces(name: str, panel: dict[str, Any]) -> None:
    if panel["type"] == "timeseries":
        for target in panel["targets"]:
            assert target.get("exemplar", False) == target["expr"].startswith("histogram_quantile"), target["expr"]


@each_board
def test_panels_do_not_lie_on_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.tool("promtool")
def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    recording = [
        {"record": f"panel:{number}", "expr": filled_in(asked)} for number, asked in enumerate(everything_asked())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recording}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gowork-cluster", ["job", "instance"]),
        ("gowork-queues", ["job", "instance", "queue"]),
        ("gowork-handlers", ["job", "instance", "queue", "handler"]),
    ],
)
def test_boards_can_be_narrowed_down(name: str, wanted: list[str]) -> None:
    source, *others = variables(name)
    assert (source["name"], source["type"]) == ("datasource", "datasource")
    assert [variable["name"] for variable in others] == wanted
    asked = " ".join(
        expression for panel in BOARDS[name]["panels"] for expression in expressions({"targets": [], **panel})
    )
    for variable in others:
        assert f'{variable["name"]}=~"${variable["name"]}"' in asked
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])
        assert found is not None
        assert found[2] == variable["name"]
        for metric in re.findall(r"gowork_\w+", found[1]):
            rules.must_be_known(metric)


def test_every_recorded_series_is_shown_or_alerted_on() -> None:
    asked = " ".join([*everything_asked(), *(alert["expr"] for alert in rules.ALERTS.values())])
    assert [name for name in rules.RECORDED if name not in asked] == []


def test_every_metric_is_shown_somewhere() -> None:
    asked = " ".join([*everything_asked(), *rules.RECORDED.values()])
    assert [name for name in rules.metrics.METRICS if name not in asked] == []


def test_points_lead_to_traces_and_spans_to_metrics() -> None:
    read = yaml.safe_load((FOLDER / "provisioning/datasources/gowork.yaml").read_text())
    prometheus, tempo = read["datasources"]
    (exemplar,) = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    assert exemplar["datasourceUid"] == tempo["uid"]
    spans = tempo["jsonData"]["tracesToMetrics"]
    assert spans["datasourceUid"] == prometheus["uid"]
    for asked in spans["queries"]:
        rules.must_be_known(asked["query"].replace("$$__tags", 'queue="mail"'))
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert prometheus["jsonData"]["timeInterval"] == scraped
