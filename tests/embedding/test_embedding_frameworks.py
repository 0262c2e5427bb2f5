"""The examples of docs/embedding.md under the servers that people run them with."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import pytest

from gowork.testing import Cluster

EXAMPLES = Path(__file__).parents[2] / "examples/embedding"
#: Seconds for what comes within one on a machine that is not busy.
SOON = 120.0
GUNICORN = ["gunicorn", "--bind", "127.0.0.1:0"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with Cluster(workers=0) as cluster:
        monkeypatch.setenv("GOWORK_LEADER", cluster.address)
        monkeypatch.setenv("WORKER_LEADER", cluster.worker_address)
        monkeypatch.setenv("PYTHONUNBUFFERED", "1")
        yield cluster


@contextlib.contextmanager
def serving(*command: str) -> Iterator[str]:
    """Runs a server in the folder of the examples, and gives its address, which it tells on standard error."""
    with subprocess.Popen([sys.executable, "-m", *command], cwd=EXAMPLES, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = ""
        try:
            while not (found := re.search(r"http://(127\.0\.0\.1:\d+)", told)):
                line = process.stderr.readline()
                assert line, told
                told += line
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
        assert "Traceback" not in rest, told + rest


def get(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=SOON) as answer:
        return answer.read().decode()


def test_fastapi_runs_worker_and_client_within_its_lifespan(cluster: Cluster) -> None:
    with serving("uvicorn", "fastapi_app:app", "--port", "0") as address:
        assert get(address, "/double/21") == "42"


def test_gunicorn_preloads_a_client_and_starts_a_worker_after_each_fork(cluster: Cluster) -> None:
    with serving(*GUNICORN, "--config", "gunicorn_conf.py", "flask_app:app") as address:
        # gunicorn tells its address when the first process is there. The second may need some requests longer.
        answers: set[str] = set()
        members = 0
        while members < 2:
            answers |= {get(address, "/double/21") for _ in range(10)}
            members = len([member for member in cluster.client.members() if member.slots])
        assert answers == {"42"}
        assert members == 2


def test_flask_schedules_what_a_worker_elsewhere_runs(cluster: Cluster) -> None:
    with working("script.py"), serving("flask", "--app", "flask_app", "run", "--port", "0") as address:
        assert get(address, "/double/21") == "42"


def test_django_schedules_what_its_worker_runs(cluster: Cluster) -> None:
    with working("django_site.py"), serving(*GUNICORN, "django_site:application") as address:
        assert get(address, "/double/21") == "42"


@contextlib.contextmanager
def working(script: str) -> Iterator[None]:
    """Runs a script that is a worker, until it is told to end."""
    with subprocess.Popen([sys.executable, script], cwd=EXAMPLES) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 0


def test_a_notebook_runs_the_newest_definition_of_its_handler(cluster: Cluster) -> None:
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=int(SOON), kernel_name="python3").execute()
    shown = {
        cell["id"]: [output["data"]["text/plain"] for output in cell["outputs"]]
        for cell in notebook.cells
        if "outputs" in cell
    }
    assert shown["worker"] == ["2"]
    assert shown["again"] == ["11"]
    assert shown["stop"] == ["True"]
