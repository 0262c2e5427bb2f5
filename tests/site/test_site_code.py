"""The code of the pages: Python parses and imports what is there, commands have their options, new pages are run."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from pathlib import Path

import click
import pytest
from site_code import Block, blocks, other_code
from site_scripts import SERVED, script
from test_e2e_readme import run

from gowork.cli.root import cli
from gowork.leader._app.command import main as leader
from gowork.worker._app.command import main as worker

ROOT = Path(__file__).parents[2]
PAGES = sorted({path for pattern in ("*.md", "docs/**/*.md", "*/*/README.md") for path in ROOT.glob(pattern)})
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
#: The pages whose Python is run: each block begins with its file's name, and pytest runs those with tests.
RUN_BY_PYTEST = [
    ROOT / "docs/retries.md",
    ROOT / "docs/coming-from.md",
    ROOT / "docs/dependencies.md",
    ROOT / "docs/groups.md",
]
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
    """Raises click's error unless the command takes these words. Nothing is run."""
    context = click.Context(command, info_name=name, parent=above, resilient_parsing=False)
    context.allow_interspersed_args = not isinstance(command, click.Group)
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    if isinstance(command, click.Group):
        if rest:
            below = command.get_command(context, rest[0])
            assert below is not None, f"{context.command_path} has no command {rest[0]}"
            check(below, rest[0], rest[1:], context)
        return
    assert not rest, f"{context.command_path} takes no {rest}"
    given = {key for key, value in values.items() if isinstance(value, (str, tuple, list)) and value}
    missing = [each.name for each in command.params if each.required and each.name not in given]
    assert not missing or "--help" in words, f"{context.command_path} needs {missing}"


#: {the command's program: what takes its words}.
PROGRAMS = {"gowork": cli, "gowork-leader": leader, "gowork-worker": worker}


def wrong_commands(code: Iterable[Block]) -> list[str]:
    """The commands of gowork that don't take the words which they are given, with the reason."""
    wrong = []
    for words in (words for block in code for words in block.commands):
        name = Path(words[0]).name
        if name in PROGRAMS and not any("…" in word or word.startswith("<") for word in words):
            try:
                check(PROGRAMS[name], name, words[1:])
            except (click.ClickException, AssertionError) as error:
                wrong.append(f"{' '.join(words)}: {str(error).splitlines()[0]}")
    return wrong


@each_page
def test_commands_on_the_pages_have_the_options_that_are_given(page: Path) -> None:
    indented, _ = other_code(page)
    assert wrong_commands([*indented, *(block for block in blocks(page) if block.language != "text")]) == []


@each_page
def test_commands_in_the_text_of_pages_are_there_with_their_options(page: Path) -> None:
    """Text names commands without their arguments, and options without their values."""
    _, spans = other_code(page)
    lacking = r": (gowork[\w -]* needs \[|Option '--[a-z-]+' requires an argument\.$)"
    assert [wrong for wrong in wrong_commands(spans) if not re.search(lacking, wrong)] == []


def test_a_command_is_found_wherever_a_page_has_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Type `gowork add --di x`, or:\n\n    gowork add \\\n        hello --id first\n\n- Or:\n\n      gowork show\n\n"
        "```sh\ngowork wait\n```\n"
    )
    indented, spans = other_code(page)
    assert [block.commands for block in spans] == [[["gowork", "add", "--di", "x"]]]
    assert [block.commands for block in indented] == [
        [["gowork", "add", "hello", "--id", "first"]],
        [["gowork", "show"]],
    ]
    # How click words it depends on its version.
    assert [
        re.sub(r"[:'.]", "", wrong.partition(": ")[2]) for wrong in wrong_commands([*spans, *indented, *blocks(page)])
    ] == [
        "No such option --di",
        "No such option --id",
        "gowork show needs [task_id]",
        "gowork wait needs [ids]",
    ]


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


@pytest.mark.longer
def test_the_page_of_gowork_all_goes_as_written(tmp_path: Path) -> None:
    out = run(script(blocks(ROOT / "packages/gowork-all/README.md"), {}), tmp_path)
    assert re.search(r'^{"payload":"hello"', out, re.MULTILINE), out
    assert re.search(r"\bCOMPLETED  worker-1\b", out), out


def test_the_lines_of_cron_and_systemd_schedule_a_task_with_an_id_of_the_day(tmp_path: Path) -> None:
    """A stand-in for gowork prints the words that it is called with, which the commands of the page must have."""
    text = (ROOT / "docs/how-do-i.md").read_text()
    gowork = tmp_path / "gowork"
    gowork.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    gowork.chmod(0o755)
    cron = re.findall(r"^0 2 \* \* \* (.*)$", text, re.MULTILINE)
    systemd = re.findall(r"^ExecStart=/bin/sh -c '(.*)'$", text, re.MULTILINE)
    commands = [line.replace(r"\%", "%") for line in cron]
    commands += [line.replace("%%", "%").replace("$$", "$").replace(r"\\", "\\") for line in systemd]
    assert (len(cron), len(systemd)) == (1, 1)
    for command in commands:
        command = command.replace("/opt/gowork/bin/gowork", str(gowork))
        words = json.loads(subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout)
        check(cli, "gowork", words)
        assert re.fullmatch(r"report-\d{4}-\d\d-\d\d", words[1])
        assert json.loads(words[-1]) == {"kind": "daily"}


@pytest.mark.parametrize(
    "words",
    ["crontab", "every night", "periodic", "dedup", "backoff", "throttle", "rate limit", "offline", "dead letter",
     "timeout", "idempoten", "concurrency", "chain", "graceful shutdown", "air-gapped", "memory leak", "autoscal"],
)  # fmt: skip
def test_what_people_search_for_is_a_question(words: str) -> None:
    assert re.search(rf"^\| [^|]*{words}", (ROOT / "docs/how-do-i.md").read_text(), re.MULTILINE)


def test_workers_have_the_names_of_their_certificates_and_an_admin_may_drain_them() -> None:
    commands = [words for block in blocks(ROOT / "docs/machines.md") for words in block.commands]
    made = [words[4:6] for words in commands if words[:3] == ["gowork", "certs", "make"]]
    workers = [words for words in commands if words[0] == "gowork-worker"]
    assert [words[words.index("--name") + 1] for words in workers] == [name for role, name in made if role == "worker"]
    assert "admin" in {role for role, _ in made}


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
    with pytest.raises(AssertionError, match=r"gowork show takes no \['second'\]"):
        check(cli, "gowork", ["show", "first", "second"])
