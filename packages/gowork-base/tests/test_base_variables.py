from __future__ import annotations

import click
import pytest

from gowork.base.variables import hint_of


@click.command(context_settings={"auto_envvar_prefix": "GOWORK"})
@click.option("--retain-tasks", default=1)
def command(retain_tasks: int) -> None:
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
