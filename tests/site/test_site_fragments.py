"""The Python of pages that show parts of programs is run, and each page with Python is run by some test.

What a part leaves out, such as a client that an earlier one has made, is given to it here.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from site_code import blocks
from test_e2e_readme import run

from gowork.client import Client
from gowork.testing import Cluster
from gowork.worker import Context, handler
from gowork.worker.testing import Outcome, Status, cancel, run_handler

ROOT = Path(__file__).parents[2]
#: {page with Python: the test that runs it}.
RUN_BY = {
    "README.md": "tests/e2e/test_e2e_readme.py",
    "docs/access.md": "tests/site/test_site_fragments.py",
    "docs/changing-payloads.md": "packages/gowork-testing/tests/test_testing_changing.py",
    "docs/coming-from.md": "tests/site/test_site_code.py",
    "docs/dependencies.md": "tests/site/test_site_code.py",
    "docs/groups.md": "tests/site/test_site_code.py",
    "docs/django.md": "tests/embedding/test_embedding_pages.py",
    "docs/fastapi.md": "tests/embedding/test_embedding_pages.py",
    "docs/hooks.md": "tests/repository/test_repository_hooks.py",
    "docs/retries.md": "tests/site/test_site_code.py",
    "docs/schedules.md": "packages/gowork-client/tests/test_client_schedules.py",
    "docs/testing.md": "packages/gowork-testing/tests/test_testing_page.py",
    "docs/tracing.md": "tests/tracing/test_tracing_page.py",
    "docs/tutorial.md": "tests/site/test_site_code.py",
    "packages/gowork-client/README.md": "tests/site/test_site_fragments.py",
    "packages/gowork-leader/README.md": "tests/site/test_site_fragments.py",
    "packages/gowork-testing/README.md": "packages/gowork-testing/tests/test_testing_page.py",
    "packages/gowork-worker/README.md": "tests/site/test_site_fragments.py",
    "plugins/gowork-plugin-container/README.md": "plugins/gowork-plugin-container/tests/test_container_plugin.py",
    "plugins/gowork-plugin-http/README.md": "plugins/gowork-plugin-http/tests/test_http_plugin.py",
    "plugins/gowork-plugin-python/README.md": "plugins/gowork-plugin-python/tests/test_python_plugin.py",
    "plugins/gowork-plugin-shell/README.md": "plugins/gowork-plugin-shell/tests/test_shell_plugin.py",
}
#: {page with commands: the test that runs them}.
SHELL_RUN_BY = {
    "README.md": "tests/e2e/test_e2e_readme.py",
    "docs/containers.md": "tests/deploy/run_images.py",
    "docs/django.md": "tests/embedding/test_embedding_pages.py",
    "docs/ecs.md": "tests/deploy/test_deploy_ecs.py",
    "docs/fastapi.md": "tests/embedding/test_embedding_pages.py",
    "docs/high-availability.md": "tests/deploy/run_drill.py",
    "docs/proxies.md": "tests/e2e/test_e2e_proxies.py",
    "docs/tracing.md": "tests/tracing/test_tracing_page.py",
    "docs/tutorial.md": "tests/site/test_site_code.py",
    "packages/gowork-all/README.md": "tests/site/test_site_code.py",
}
#: {page with commands whose options alone are checked: why they are not run as they stand}. Tests run each of these
#: commands with other values.
SHELL_CHECKED = {
    "docs/coming-from.md": "it needs a worker with gowork-plugin-shell",
    "docs/dependencies.md": "it is one command",
    "docs/groups.md": "tests of gowork-cli run each of them",
    "docs/encryption.md": "it is one command",
    "docs/isolation.md": "its plugins do not exist",
    "docs/machines.md": "it needs two machines",
    "docs/operating.md": "it needs a leader in /var/lib/gowork",
    "examples/node-worker/README.md": "it needs packages of npm",
    "packages/gowork-cli/README.md": "it runs until it is stopped",
    "packages/gowork-worker/README.md": "it runs until it is stopped",
    "plugins/gowork-plugin-container/README.md": "it needs podman or docker",
    "plugins/gowork-plugin-http/README.md": "it calls another site",
    "plugins/gowork-plugin-python/README.md": "it runs until it is stopped",
    "plugins/gowork-plugin-shell/README.md": "it runs until it is stopped",
}


def python_of(page: str) -> list[str]:
    return [block.text for block in blocks(ROOT / page) if block.language == "python" and not block.not_run]


def part(page: str, word: str) -> str:
    """The one block of a page's Python that has the word."""
    (found,) = [text for text in python_of(page) if word in text]
    return found


def call(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs code with these names, and returns all names that there are then."""
    exec(compile(code, "page", "exec"), names)
    return names


def test_each_page_with_python_is_run_by_a_test() -> None:
    pages = {path for pattern in ("*.md", "docs/*.md", "*/*/README.md") for path in ROOT.glob(pattern)}
    with_python = {name for page in pages if python_of(name := str(page.relative_to(ROOT)))}
    assert with_python == RUN_BY.keys()
    for page, test in RUN_BY.items():
        words = (ROOT / test).read_text()
        assert Path(page).name in words or "README" in words, f"{test} does not read {page}"


def test_each_page_with_commands_says_who_runs_them() -> None:
    pages = {path for pattern in ("*.md", "docs/*.md", "*/*/README.md") for path in ROOT.glob(pattern)}
    shells = {str(page.relative_to(ROOT)) for page in pages for block in blocks(page) if block.language == "sh"}
    assert shells == SHELL_RUN_BY.keys() | SHELL_CHECKED.keys()
    assert not SHELL_RUN_BY.keys() & SHELL_CHECKED.keys()
    for page, test in SHELL_RUN_BY.items():
        assert Path(page).name in (ROOT / test).read_text(), f"{test} does not read {page}"


@dataclass
class Job:
    name: str


@handler
def hello(job: dict[str, str]) -> str:
    return f"Hello, {job['name']}!"


@handler
def thumbnail(job: Job | bytes) -> str:
    return job.name if isinstance(job, Job) else f"{len(job)} bytes"


@handler
def resize(width: int) -> int:
    return width


def test_the_clients_page_is_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = "packages/gowork-client/README.md"
    with Cluster(handlers=[hello, thumbnail, resize]) as cluster:
        monkeypatch.setenv("GOWORK_LEADER", cluster.address)
        call(part(page, "handle = client.schedule"), {})
        with Client() as client:
            names = {"client": client, "Job": Job, "thumbnail": thumbnail, "jobs": [100, 200]}
            assert call(part(page, "RetryPolicy"), names)["image"] == "a"
            assert client.get("report-2026-11").queue == "reports"
            call(part(page, "as_completed"), names)
            call(part(page, "Lookout"), names)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Hello, Ada!"
    assert sorted(line.split()[-1] for line in shown[1:3]) == ["100", "200"]
    assert "'reports'" in shown[3]


def test_the_leaders_page_is_run(tmp_path: Path) -> None:
    (tmp_path / "leading.py").write_text(part("packages/gowork-leader/README.md", "main()") + "\nasyncio.run(main())\n")
    serving = f"{sys.executable} leading.py & server=$!; until gowork stats; do kill -0 $server; done >&2"
    run(f"set -e\n{serving}\nkill -0 $server && kill $server", tmp_path)
    assert (tmp_path / "gowork.db").stat().st_size


def test_the_leader_of_the_page_on_access_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["init", "."], ["make", ".", "leader", "leader", "--host", "10.0.0.5"]):
        subprocess.run([sys.executable, "-m", "gowork", "certs", *words], check=True, capture_output=True)
    tables = [block.text for block in blocks(ROOT / "docs/access.md") if block.language == "toml"]
    assert len(tables) == 2
    for table in tables:
        (tmp_path / "access.toml").write_text(table)
        os.chmod("access.toml", 0o600)
        assert call(part("docs/access.md", "open_store"), {})["leader"]


WORKER = "packages/gowork-worker/README.md"
#: What the page's hooks need besides.
BREWERS = """import time

from prometheus_client import CollectorRegistry, Histogram

registry = CollectorRegistry()
seconds = Histogram("brewing_seconds", "How long brewing took.", ["handler", "outcome"], registry=registry)


def make_brewer(size):
    def brew(customer: str) -> str:
        return f"a {size} one for {customer}"

    return brew


"""


def test_a_handler_of_the_workers_page_stops_when_it_is_cancelled() -> None:
    sweep = call(part(WORKER, "sweep"), {"handler": handler, "Context": Context})["sweep"]

    def swept(ctx: Context) -> int:
        ctx.progress(0.5)
        return int(sweep(ctx))

    outcome = run_handler(handler(swept), None, faults=[cancel(at_progress=1)])
    assert outcome.status is Status.CANCELLED


@dataclass
class ImportJob:
    """What the page's handler with checkpoints takes."""

    path: str


def test_a_handler_of_the_workers_page_goes_on_where_it_stopped() -> None:
    written: list[str] = []

    def read_rows(path: str, start: int) -> list[str]:
        return ["a", "b", "c"][start:]

    names = {"handler": handler, "Context": Context, "ImportJob": ImportJob}
    page = call(part(WORKER, "import_rows"), names | {"read_rows": read_rows, "write_row": written.append})
    outcome = run_handler(page["import_rows"], ImportJob("f"), checkpoint=1)
    assert (outcome.result, outcome.checkpoint, written) == (3, 3, ["b", "c"])


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("Retry", lambda outcome: outcome.failure.message == "the API is down" and outcome.will_retry),
        ("Snooze", lambda outcome: outcome.status is Status.SNOOZED),
        ("Cancel", lambda outcome: outcome.status is Status.CANCELLED),
        ("Fail", lambda outcome: outcome.failure.message == "no such customer"),
    ],
    ids=["retry", "snooze", "cancel", "fail"],
)
def test_what_the_workers_page_raises_steers(word: str, shown: Callable[[Outcome], bool]) -> None:
    imports, *lines = [line for line in part(WORKER, "Snooze(delay").splitlines() if line]
    (raising,) = [line for line in lines if line.startswith(f"raise {word}(")]

    @handler(max_attempts=3)
    def steering() -> None:
        call(f"{imports}\n{raising}", {})

    assert shown(run_handler(steering, None))


def test_the_hooks_of_the_workers_page_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "brewing_page.py").write_text(BREWERS + part(WORKER, "make_brewer"))
    outcome = run_handler("brew-large", "Ada", imports=["brewing_page"])
    assert outcome.result == "a large one for Ada"
    registry = importlib.import_module("brewing_page").registry
    labels = {"handler": "brew-large", "outcome": "completed"}
    assert registry.get_sample_value("brewing_seconds_count", labels) == 1
