"""Checks the rules, alerts and configurations of deploy/prometheus, and the runbook's sections for the alerts."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import deploy_metrics as metrics
import pytest
import yaml
from deploy_rules import ALERTS, FOLDER, RECORDED, must_be_known

from gowork.cli.root import cli as root
from gowork.leader._core.model import WaitCode

ROOT = Path(__file__).parents[2]
RULE_TESTS = sorted((FOLDER / "tests").glob("*.yaml"))
RUNBOOK = ROOT / "docs/runbook.md"


each_alert = pytest.mark.parametrize("alert", ALERTS)


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.tool("promtool")
@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-dns.yml"])
def test_prometheus_takes_the_configuration_and_its_rules(name: str) -> None:
    told = promtool("check", "config", str(FOLDER / name))
    assert "2 rule files found" in told


@pytest.mark.tool("promtool")
def test_the_rules_pass_promtools_lint() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *map(str, sorted((FOLDER / "rules").glob("*.yaml"))))


@pytest.mark.tool("promtool")
@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(file: Path) -> None:
    promtool("test", "rules", str(file))


@each_alert
def test_every_alert_is_tested_both_ways(alert: str) -> None:
    cases = [
        case
        for file in RULE_TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert} == {True, False}


@each_alert
def test_every_alert_says_how_bad_it_is_what_it_is_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    # A Markdown heading's anchor, as GitHub and others make it.
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"


def test_the_runbook_has_a_section_for_each_alert_and_for_nothing_else() -> None:
    assert re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE) == list(ALERTS)


def test_every_reason_that_time_alone_does_not_lift_has_an_alert_and_its_words_in_the_runbook() -> None:
    waits = "gowork_queue_waiting_tasks:max"
    alerts = {name: rule["expr"] for name, rule in ALERTS.items() if waits in rule["expr"]}
    named = {
        reason: name
        for name, expression in alerts.items()
        for reasons in re.findall(r'reason=~?"([^"]+)"', expression)
        for reason in reasons.split("|")
    }
    # No alert for these: they end by themselves, belong to ended tasks, or mean a full store, which has its own alert.
    ends = {WaitCode.DELAYED, WaitCode.RETRY_DELAY, WaitCode.EXPIRED, WaitCode.QUARANTINED}
    ends |= {WaitCode.FAILED, WaitCode.CANCELLED, WaitCode.STORE_FULL}
    # What waits for other tasks is counted as delayed.
    ends |= {WaitCode.UPSTREAM, WaitCode.UPSTREAM_FAILED}
    assert set(named) == {code.name.lower() for code in WaitCode if code not in ends}
    for reason, name in named.items():
        section = RUNBOOK.read_text().split(f"## {name}\n")[1].split("\n## ")[0]
        assert f"`{reason}`" in section or list(named.values()).count(name) == 1, reason


@each_alert
def test_every_section_says_what_it_means_how_to_look_and_what_to_do(alert: str) -> None:
    section = RUNBOOK.read_text().split(f"## {alert}\n")[1].split("\n## ")[0]
    assert re.findall(r"^\*\*(\w+)\.\*\*", section, re.MULTILINE) == ["Means", "Look", "Do"]
    assert "`gowork " in section


def test_the_runbooks_links_lead_somewhere() -> None:
    anchors = {alert.lower() for alert in ALERTS}
    for target in re.findall(r"\]\(([^)]+)\)", RUNBOOK.read_text()):
        assert target[1:] in anchors if target.startswith("#") else (RUNBOOK.parent / target).is_file(), target


def code_of_the_runbook() -> list[str]:
    return re.findall(r"`([^`]+)`", RUNBOOK.read_text())


def test_the_runbooks_commands_exist_with_their_options() -> None:
    parts = [part.strip().removeprefix("xargs ") for code in code_of_the_runbook() for part in code.split(" | ")]
    commands = [shlex.split(part) for part in parts if part.startswith("gowork ")]
    assert ["gowork", "retry", "ID"] in commands
    assert commands
    for _, *words in commands:
        command: click.Command = root
        with click.Context(root) as context:
            while isinstance(command, click.Group) and words and (found := command.get_command(context, words[0])):
                command, words = found, words[1:]
        assert command is not root, words
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, (command.name, words)


def queries_of_the_runbook() -> list[str]:
    return [code for code in code_of_the_runbook() if re.search(r"\bgowork_|\bup\{", code)]


def test_the_runbook_asks_for_metrics_that_exist() -> None:
    assert queries_of_the_runbook()
    for query in queries_of_the_runbook():
        must_be_known(query)


@pytest.mark.tool("promtool")
def test_the_runbooks_queries_can_be_read(tmp_path: Path) -> None:
    recording = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries_of_the_runbook())]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": recording}]}))
    promtool("check", "rules", str(file))


@pytest.mark.parametrize("name", [*RECORDED, *ALERTS])
def test_rules_ask_for_metrics_and_labels_that_exist(name: str) -> None:
    must_be_known(RECORDED[name] if name in RECORDED else ALERTS[name]["expr"])


def test_files_for_discovery_are_where_the_configuration_looks_for_them() -> None:
    read = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    files = [file for job in read["scrape_configs"] for found in job["file_sd_configs"] for file in found["files"]]
    assert {FOLDER / file for file in files} == set((FOLDER / "targets").glob("*.yaml"))
    for file in files:
        assert [group["targets"] for group in yaml.safe_load((FOLDER / file).read_text())]


@pytest.mark.parametrize(
    ("expression", "names", "wrong"),
    [
        ('sum by (job) (rate(gowork_stale_reports_total{job=~"$job"}[5m])) > 5', {"gowork_stale_reports_total"}, 0),
        ('gowork_nothing{state="x{y"} or on () up offset 15m', {"gowork_nothing", "up"}, None),
        ('gowork_members{queue="mail"}', {"gowork_members"}, 1),
        ("sum by (handler) (gowork_members)", {"gowork_members"}, 1),
        ("rate(gowork_store_commit_seconds_bucket[$__rate_interval])", {"gowork_store_commit_seconds_bucket"}, 0),
    ],
)
def test_expressions_are_read_for_what_they_ask(expression: str, names: set[str], wrong: int | None) -> None:
    assert metrics.names_in(expression) == names
    if wrong is not None:
        assert len(metrics.wrong_labels(expression, {})) == wrong
