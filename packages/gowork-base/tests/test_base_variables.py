from __future__ import annotations

import click
import pytest

from gowork.base.variables import hint_of


@click.command(context_settings={"auto_envvar_prefix": "GOWORK"})
@click.option("--retain-tasks", default=1)
@click.option("--label", "labels", envvar="GOWORK_LABEL", multiple=True)
def command(retain_tasks: int, labels: tuple[str, ...]) -> None:
    """Does nothing."""


@pytest.mark.parametrize(
    ("arguments", "variables", "hint"),
    [
        ([], {"GOWORK_RETAIN_TASKS": "3"}, "'--retain-tasks' (variable GOWORK_RETAIN_TASKS)"),
        (["--retain-tasks", "2"], {"GOWORK_RETAIN_TASKS": "3"}, None),
        ([], {}, None),
    ],
)
def test_an_option_is_named_by_its_variable_where_that_gave_its_value(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], variables: dict[str, str], hint: str | None
) -> None:
    monkeypatch.delenv("GOWORK_RETAIN_TASKS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with command.make_context("command", arguments) as context:
        assert hint_of(context, command.params[0]) == hint
        assert hint_of(context, None) is None


def test_a_variable_with_a_name_of_its_own_is_named_by_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOWORK_LABEL", "disk=ssd")
    with command.make_context("command", []) as context:
        assert context.params["labels"] == ("disk=ssd",)
        assert hint_of(context, command.params[1]) == "'--label' (variable GOWORK_LABEL)"
