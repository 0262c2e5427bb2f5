"""The code of the pages: Python parses and imports what is there, commands have their options, new pages are run."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import click
import pytest
from site_code import Block, blocks
from site_scripts import SERVED, script
from test_e2e_readme import run

from gowork.cli.root import cli
from gowork.leader._app.command import main as leader
from gowork.worker._app.command import main as worker

ROOT = Path(__file__).parents[2]
PAGES = sorted({path for pattern in ("*.md", "docs/*.md", "*/*/README.md") for path in ROOT.glob(pattern)})
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
#: The pages whose Python is run: each block begins with its file's name, and pytest runs those with tests.
RUN_BY_PYTEST = [ROOT / "docs/retries.md", ROOT / "docs/coming-from.md"]
#: How long the tutorial may take, in seconds; it makes two environments and builds a package.
TUTORIAL_SECONDS = 280.0
#: The most blocks of all pages together that are not run.
NOT_RUN_MAX = 6


@each_page
def test_python_on_the_pages_parses_and_imports_what_is_there(page: Path) -> None:
    wrong = []
    for block in blocks(page):
        if block.language != "python":
            continue
        # Some pages show a line of a coroutine, or of the body of a class.
        tree = ast.parse(block.text) if "await " not in block.text else ast.parse(f"async def _():\n{_indented(block)}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gowork":
                module = importlib.import_module(str(node.module))
                wrong += [f"{node.module}.{name.name}" for name in node.names if not hasattr(module, name.name)]
    assert wrong == []


def _indented(block: Block) -> str:
    return "".join(f"    {line}" for line in block.text.splitlines(keepends=True))


def check(command: click.Command, name: str, words: list[str], above: click.Context | None = None) -> None:
    """Raises click's error unless the command has the options and subcommands that are given. Nothing is run."""
    context = click.Context(command, info_name=name, parent=above, resilient_parsing=False)
    context.allow_interspersed_args = not isinstance(command, click.Group)
    options = command.make_parser(context)
    _, rest, _ = options.parse_args(list(words))
    if isinstance(command, click.Group) and rest:
        below = command.get_command(context, rest[0])
        assert below is not None, f"{context.command_path} has no command {rest[0]}"
        check(below, rest[0], rest[1:], context)


@each_page
def test_commands_on_the_pages_have_the_options_that_are_given(page: Path) -> None:
    programs = {"gowork": cli, "gowork-leader": leader, "gowork-worker": worker}
    wrong = []
    for block in blocks(page):
        for words in block.commands if block.language in ("sh", "bash", "console") else ():
            name = Path(words[0]).name
            if name in programs and not any("…" in word or word.startswith("<") for word in words):
                try:
                    check(programs[name], name, words[1:])
                except (click.ClickException, AssertionError) as error:
                    wrong.append(f"{' '.join(words)}: {error}")
    assert wrong == []


def test_few_blocks_are_not_run() -> None:
    left_out = [block for page in PAGES for block in blocks(page) if block.not_run]
    assert len(left_out) <= NOT_RUN_MAX


@pytest.mark.parametrize("page", RUN_BY_PYTEST, ids=lambda page: page.name)
def test_the_python_of_the_page_is_run(page: Path, tmp_path: Path) -> None:
    python = [block for block in blocks(page) if block.language == "python"]
    files = {block.text.partition("\n")[0].removeprefix("# "): block for block in python}
    for name, block in files.items():
        assert re.fullmatch(r"[a-z_]+\.py", name), f"{name}: the first line of a block is its file's name"
        (tmp_path / name).write_text(block.text)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -p no:asyncio -W error\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    tests = sum(block.text.count("\ndef test_") for block in files.values())
    assert tests
    assert f"{tests} passed" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The folder of the programs of an environment that has what this one has, and where more can be installed."""
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    programs = tmp_path / "venv/bin"
    own = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")})
    others = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    Path(own, "others.pth").write_text("".join(f"import site; site.addsitedir({other!r})\n" for other in others))
    command = programs / "gowork"
    command.write_text(f'#!/bin/sh\nexec {programs}/python3 -m gowork "$@"\n')
    command.chmod(0o755)
    return programs


@pytest.mark.longer
@pytest.mark.tool("grpcurl")
def test_the_tutorial_goes_as_written(tmp_path: Path, environment: Path) -> None:
    # pip's variable for an option that begins with "no" takes 0 for yes.
    alone = "PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0 PYTHONWARNINGS=ignore"
    # What is installed here stands for the wheels: `nox -s newcomer` builds and installs them.
    others = next((tmp_path / "venv").rglob("others.pth"))
    worker = "../worker/bin/python3 -m pip install "
    replaced = {
        "python3 -m pip install wheels/gowork_*.whl": "true",
        f"{worker}../wheels/gowork_{{proto,base,worker}}-*.whl dist/*.whl": (
            f"cp {others} ../worker/lib/python3*/site-packages; {worker}--no-deps dist/*.whl"
        ),
        "../worker/bin/gowork-worker": "../worker/bin/python3 -m gowork.worker",
    }
    text = script(blocks(ROOT / "docs/tutorial.md"), replaced)
    out = run(f"export PATH={environment}:$PATH {alone}\n{text}ls dist\n", tmp_path, TUTORIAL_SECONDS)
    assert [line for line in replaced if line not in (ROOT / "docs/tutorial.md").read_text()] == []
    assert "3 passed" in out
    assert "coffee: stops when cancelled" in out
    assert [served for served in SERVED if served not in out] == []
    assert re.search(r"^gowork_plugin_coffee-.*\.whl$", out, re.MULTILINE)


def test_what_is_not_run_is_told_by_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: it ends the world -->\n```sh\nA=1 end --all | less\n```\n\n  ```sh\n  go \\\n    on\n  ```\n"
    )
    assert blocks(page) == [Block("sh", "A=1 end --all | less\n", "it ends the world"), Block("sh", "go \\\n  on\n")]
    assert [block.commands for block in blocks(page)] == [[["end", "--all"], ["less"]], [["go", "on"]]]


def test_an_option_that_is_not_there_is_found() -> None:
    with pytest.raises(click.NoSuchOption):
        check(cli, "gowork", ["queues", "set", "mail", "--rtae", "5"])
    with pytest.raises(AssertionError, match="gowork queues has no command sett"):
        check(cli, "gowork", ["queues", "sett"])
