"""The generated reference has each public name, command, variable, RPC and reason, with words about it."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest
import site_api
import site_commands
import site_pages
import site_rpcs
import site_text

from gowork.cli import manual

API = site_api.pages()
COMMANDS = site_commands.commands_page()
CONFIGURATION = site_commands.configuration_page()


@pytest.mark.parametrize("name", site_api.public_modules())
def test_every_public_name_is_described(name: str) -> None:
    module = importlib.import_module(name)
    described = "\n".join(API.values())
    assert [public for public in site_api.public_names(module) if f"\n## `{public}`\n" not in described] == []


@pytest.mark.parametrize("name", site_api.public_modules())
def test_every_public_class_and_function_has_words_of_its_own(name: str) -> None:
    module = importlib.import_module(name)
    values = {public: getattr(module, public) for public in site_api.public_names(module)}
    silent = [public for public, value in values.items() if inspect.isroutine(value) and not inspect.getdoc(value)]
    silent += [
        public for public, value in values.items() if inspect.isclass(value) and not (vars(value).get("__doc__") or "")
    ]
    assert silent == []


def test_the_public_modules_are_those_that_programs_import() -> None:
    assert {"gowork.client", "gowork.worker", "gowork.worker.testing", "gowork.testing"} <= {*site_api.public_modules()}
    assert not [name for name in site_api.public_modules() if "._" in name]


def test_a_method_is_described_with_its_arguments_and_what_it_raises() -> None:
    page = API["reference/api/gowork.client.md"]
    entry = page.partition("### `Client.schedule`")[2].partition("\n### ")[0]
    assert "```python\nschedule(self, payload" in entry
    assert "**Args**\n\n- `payload`: " in entry
    assert "**Raises**\n\n- " in entry


def test_the_index_has_each_public_name_and_method() -> None:
    page = API["reference/api/gowork.client.md"]
    for name in ("Client (gowork.client)", "schedule (Client)", "RetryPolicy (gowork.client)"):
        assert f"\n```{{index}} single: {name}\n```\n\n##" in page
    listed = re.findall(r"^#{2,3} `(.+)`$", page, re.MULTILINE)
    elsewhere = page.count("\n\nIt is described in [")
    assert page.count("\n```{index} ") == len(listed) - elsewhere


def test_a_field_is_described_by_the_comment_above_it() -> None:
    entry = API["reference/api/gowork.client.md"].partition("## `Activity`")[2]
    assert "- `version` (`str`): The version of gowork-leader." in entry


def test_no_private_field_is_described() -> None:
    assert re.findall(r"^- `_\w+`.*", "\n".join(API.values()), re.MULTILINE) == []


def test_every_command_is_shown_with_its_help() -> None:
    paths = {context.command_path for context in site_commands.tree()}
    assert {"gowork", "gowork add", "gowork queues set", "gowork leader", "gowork worker", "gowork plugin new"} <= paths
    for path in paths:
        assert re.search(rf"^#+ {re.escape(path)}\n\n```text\nUsage: {re.escape(path)}\b", COMMANDS, re.MULTILINE), path


def test_help_leads_to_the_pages_of_the_installed_version_and_not_to_the_repository() -> None:
    assert site_pages.repository() not in COMMANDS
    named = re.findall(r"gowork docs ([a-z][\w.-]+)", COMMANDS)
    assert {"protocol"} <= {*named} <= {*manual.PAGES}


@pytest.mark.parametrize("command", [site_commands.leader, site_commands.worker], ids=["leader", "worker"])
def test_every_option_is_listed_with_its_variable(command: site_commands.click.Command) -> None:
    variables = site_commands.option_variables(command)
    assert len(variables) > 10
    for variable, option in variables.items():
        assert f"| `{max(option.opts, key=len)}` | `{variable}` | " in CONFIGURATION
        assert option.help or option.hidden, variable


def test_every_variable_that_the_sources_name_is_listed() -> None:
    listed = {*re.findall(r"`(GOWORK_[A-Z_]+)`", CONFIGURATION)}
    # Completion of the shell has a variable by a convention of click's.
    assert site_commands.named_variables() - listed == set()


def test_no_variable_is_listed_that_nothing_reads() -> None:
    options = [site_commands.option_variables(one) for one in (site_commands.leader, site_commands.worker)]
    read = site_commands.named_variables().union(*options)
    assert set(site_commands.other_variables()) - read == set()


def test_every_rpc_message_and_field_is_listed_with_its_comment() -> None:
    pages = site_rpcs.pages()
    assert len(pages) == len(site_rpcs.files())
    for file, page in zip(site_rpcs.files(), pages.values(), strict=True):
        for service in file.service:
            for method in service.method:
                entry = page.partition(f"### {service.name}.{method.name}\n")[2].partition("\n## ")[0]
                assert len(entry.partition("```\n")[2].split()) > 3, f"{method.name} has no comment"
        for message in file.message_type:
            entry = page.partition(f"\n## {message.name}\n")[2].partition("\n## ")[0]
            assert [field.name for field in message.field if f" {field.name} = {field.number}`" not in entry] == []


def test_every_reason_of_a_refusal_has_words() -> None:
    assert site_rpcs.raised_reasons().keys() == site_rpcs.meanings().keys()
    assert {"STALE_FENCE", "NOT_LEADING", "INVALID_ARGUMENT", "ROLE_MISSING"} <= site_rpcs.raised_reasons().keys()
    assert "| `STALE_FENCE` | `FAILED_PRECONDITION` | The report is of a former attempt" in site_rpcs.errors_page()


def test_a_reason_without_words_fails_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = site_rpcs.raised_reasons()
    monkeypatch.setattr(site_rpcs, "raised_reasons", lambda: {**raised, "NEW_REASON": "ABORTED"})
    with pytest.raises(ValueError, match=r"lacks \['NEW_REASON'\]"):
        site_rpcs.errors_page()


def test_what_means_something_in_markdown_is_text() -> None:
    assert site_text.prose("a <b> of *c*, `<d>`") == r"a \<b\> of \*c\*, `<d>`"


def test_a_docstring_becomes_markdown() -> None:
    text = "Does it.\n\n    call()\n\nArgs:\n    one: the first,\n        of two.\n\nReturns:\n    A number."
    assert site_text.docstring(text) == (
        "Does it.\n\n```text\ncall()\n```\n\n**Args**\n\n- `one`: the first, of two.\n\n**Returns**\n\nA number."
    )


def test_what_comes_from_another_library_is_not_described_again() -> None:
    assert "## `hookimpl`\n\nIt comes from pluggy.\n" in API["reference/api/gowork.worker.md"]
