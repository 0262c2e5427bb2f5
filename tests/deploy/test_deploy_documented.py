"""Each command that docs/high-availability.md gives exists, with its options and files. `nox -s drill` runs them."""

from __future__ import annotations

import re
import shlex
import subprocess
import textwrap
from pathlib import Path

import click
import pytest

from gowork.cli.root import cli
from gowork.leader._app.command import main as leader
from gowork.worker._app.command import main as worker

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/high-availability.md").read_text()
#: Programs that neither gowork nor etcd has.
OTHERS = {
    *("cp", "docker", "echo", "export", "install", "mkdir", "nginx", "sysctl", "systemctl", "systemd-run", "useradd"),
}


def documented() -> list[list[str]]:
    """The words of each command."""
    blocks = re.findall(r"^( *)```sh\n(.*?)^\1```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for _, block in blocks for line in textwrap.dedent(block).replace("\\\n", "").splitlines()]
    return [shlex.split(line) for line in lines]


COMMANDS = documented()
each_command = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


def check(command: click.Command, words: list[str]) -> None:
    """Raises click's error unless the command takes these words. It is not run."""
    with command.make_context(command.name, list(words), resilient_parsing=False) as context:
        rest = [*context._protected_args, *context.args]
        if isinstance(command, click.Group) and rest:
            name, found, after = command.resolve_command(context, rest)
            assert found is not None, name
            check(found, after)


def test_the_page_has_all_kinds_of_commands() -> None:
    names = {Path(words[0]).name for words in COMMANDS}
    assert names == OTHERS | {"etcd", "etcdctl", "gowork", "gowork-leader", "gowork-worker", "pip", "python3"}


@each_command
def test_gowork_takes_the_command(words: list[str]) -> None:
    if words[0] == "systemd-run":
        words = words[words.index("/opt/gowork/bin/gowork") :]
    commands = {"gowork": cli, "gowork-leader": leader, "gowork-worker": worker}
    command = commands.get(Path(words[0]).name)
    if command is not None:
        check(command, words[1:])


@each_command
@pytest.mark.tool("etcd")
def test_etcd_has_the_options(words: list[str]) -> None:
    if words[0] == "etcd":
        known = subprocess.run(["etcd", "--help"], capture_output=True, text=True, check=True)
        given = {word for word in words if word.startswith("--")}
        assert given <= set(re.findall(r"--[\w-]+", known.stdout + known.stderr))


@each_command
def test_the_files_of_a_checkout_are_there(words: list[str]) -> None:
    for word in words:
        if word.startswith("deploy/"):
            assert (ROOT / word).is_file(), word
