"""Plugins in virtual environments of their own. The environments are real, and made without a network."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made_environments import bare, equipped, faked, install, site_of, with_plugin

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import Worker
from gowork.worker._app.command import main
from gowork.worker._app.service import Service
from gowork.worker._core.options import PLUGIN_ENVS_MAX, Options
from gowork.worker._core.selection import Selection
from gowork.worker._fleet import environments
from gowork.worker._fleet.interpreters import Interpreter
from gowork.worker._version import __version__
from gowork.worker.errors import ConfigurationError

MODULES = Path(__file__).parent.parent / "modules"
CHOSEN = Selection(plugins=("echo", "reports", "images"), imports=("worker_sample",))
#: Stands in for a Python of any version, and with any version of gowork-worker.
ANSWERING = "#!/bin/sh\necho 'gowork-environment [[{python}], \"{version}\"]'\n"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> str:
    return with_plugin(tmp_path_factory.mktemp("envs") / "reports", "reports", "1", "1.5")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    return with_plugin(tmp_path_factory.mktemp("envs") / "images", "images", "2")


async def opened(leader: Any, service: Any) -> Any:
    """The session that a worker opens; fails when the worker ends instead."""
    session = asyncio.ensure_future(leader.session())
    await asyncio.wait([session, service.task], return_when=asyncio.FIRST_COMPLETED)
    if service.task.done():
        session.cancel()
        await service.task
    return await session


async def result(scripted: Any, fence: int, handler: str) -> Any:
    scripted.grant(fence, handler)
    report = await scripted.report(fence)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_COMPLETED, report
    return json.loads(report.result)


async def test_plugins_of_two_environments_see_their_own_versions_of_a_library(
    leader: Any, start_worker: Any, reports: str, images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    scripted = await opened(leader, await start_worker(runners=1, selection=CHOSEN, plugin_envs=(reports, images)))
    known = {handler.name: handler for handler in scripted.hello.handlers}
    assert {"echo", "noop", "reports", "images", "reports-die", "images-die"} <= known.keys()
    assert (known["reports"].plugin, known["reports"].plugin_version) == ("reports", "1.5")
    assert known["images"].description_digest
    assert not scripted.hello.plugin_errors
    for fence, name, path, version in ((1, "reports", reports, "1"), (2, "images", images, "2")):
        found = await result(scripted, fence, name)
        assert (found["tiny"], found["prefix"], found["path"]) == (version, path, "")
        assert (found["variable"], found["first"]) == (path, f"{path}/bin")
    scripted.grant(3, "add", "[1, 2]")
    assert (await scripted.report(3)).result == "3"


async def test_tasks_of_an_environment_follow_each_other_in_one_process(
    leader: Any, start_worker: Any, reports: str
) -> None:
    await start_worker(runners=1, selection=CHOSEN, plugin_envs=(reports,))
    scripted = await leader.session()
    first = await result(scripted, 1, "reports")
    assert first["pid"] == (await result(scripted, 2, "reports"))["pid"]


@pytest.mark.longer
async def test_a_process_of_an_environment_that_dies_loses_its_task_alone(
    leader: Any, start_worker: Any, reports: str
) -> None:
    await start_worker(runners=1, selection=CHOSEN, plugin_envs=(reports,))
    scripted = await leader.session()
    scripted.grant(1, "reports-die")
    report = await scripted.report(1)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_LOST
    assert "exited with code 7" in report.reason
    assert (await result(scripted, 2, "reports"))["tiny"] == "1"
    scripted.grant(3, "noop")
    assert (await scripted.report(3)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def test_a_task_of_an_environment_is_cancelled_and_runs_out_of_time(
    leader: Any, start_worker: Any, reports: str
) -> None:
    await start_worker(runners=1, selection=CHOSEN, plugin_envs=(reports,))
    scripted = await leader.session()
    scripted.grant(1, "reports-wait")
    await scripted.started(1)
    scripted.send(cancelled=[1])
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    scripted.grant(2, "reports-wait", time_limit_ms=50)
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_TIMED_OUT


async def test_a_task_that_names_no_handler_runs_in_the_environment_that_has_the_default_one(
    leader: Any, start_worker: Any, reports: str
) -> None:
    selection = Selection(plugins=("echo", "reports"), default_handler="reports")
    await start_worker(runners=1, selection=selection, plugin_envs=(reports,))
    scripted = await leader.session()
    assert (await result(scripted, 1, ""))["tiny"] == "1"


@pytest.mark.longer
async def test_a_drain_waits_for_a_task_of_an_environment(leader: Any, start_worker: Any, reports: str) -> None:
    service = await start_worker(runners=1, selection=CHOSEN, plugin_envs=(reports,))
    scripted = await leader.session()
    scripted.grant(1, "reports-wait")
    await scripted.started(1)
    service.stop()
    await scripted.until(lambda: scripted.condition.draining)
    assert not scripted.reports
    scripted.send(cancelled=[1])
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    await service.task


@pytest.mark.longer
async def test_what_a_handler_of_an_environment_prints_is_passed_on(
    leader: Any, start_worker: Any, reports: str, capfd: pytest.CaptureFixture[str], eventually: Any
) -> None:
    await start_worker(runners=1, selection=CHOSEN, plugin_envs=(reports,))
    scripted = await leader.session()
    scripted.grant(1, "reports-print")
    await scripted.report(1)
    printed: list[str] = []

    def has_come() -> bool:
        printed.append(capfd.readouterr().err)
        return "printed by reports" in "".join(printed)

    await eventually(has_come)


@pytest.fixture
def own_environment(tmp_path: Path) -> Path:
    return Path(with_plugin(tmp_path / "env", "reports"))


async def handed_back(scripted: Any, fence: int) -> str:
    """Grants a task of a broken environment, and returns the reason for which it comes back."""
    scripted.grant(fence, "reports")
    report = await scripted.report(fence)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED, report
    reason: str = report.reason
    return reason


async def test_tasks_of_an_environment_that_breaks_are_handed_back_and_others_run(
    leader: Any, start_worker: Any, own_environment: Path
) -> None:
    await start_worker(slots=1, runners=1, selection=CHOSEN, plugin_envs=(str(own_environment),))
    scripted = await leader.session()
    shutil.rmtree(own_environment)
    reason = await handed_back(scripted, 1)
    assert reason.startswith(f"no runner of {own_environment} gets ready: the runner could not be started")
    scripted.grant(2, "noop")
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


@pytest.mark.longer
async def test_an_environment_that_gets_another_version_later_runs_nothing(
    leader: Any, start_worker: Any, own_environment: Path
) -> None:
    await start_worker(slots=1, runners=1, selection=CHOSEN, plugin_envs=(str(own_environment),))
    scripted = await leader.session()
    other = "import sys, gowork.worker._version as version\nversion.__version__ = '9.9'\n"
    (site_of(own_environment) / "sitecustomize.py").write_text(other)
    assert f"it has gowork-worker 9.9, and the worker is {__version__}" in await handed_back(scripted, 1)


async def test_a_task_whose_handler_an_environment_has_lost_is_handed_back_and_not_rejected(
    leader: Any, start_worker: Any, own_environment: Path
) -> None:
    # As while a plugin is upgraded: there is none for a moment.
    install(own_environment, "others", "from gowork.worker import handler\n\n@handler\ndef other() -> None: ...\n")
    selection = Selection(plugins=("echo", "reports", "others"))
    await start_worker(runners=1, selection=selection, plugin_envs=(str(own_environment),))
    scripted = await leader.session()
    (site_of(own_environment) / "reports_plugin.py").unlink()
    assert f"{own_environment} has no handler 'reports' any more" in await handed_back(scripted, 1)
    scripted.grant(2, "other")
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def refusal(*paths: str | Path, selection: Selection = CHOSEN) -> str:
    """Runs a worker that can't start, and returns why."""
    options = Options(name="w", slots=1, runners=1, selection=selection, plugin_envs=tuple(map(str, paths)))
    service = Service(options, ["127.0.0.1:1"])
    with pytest.raises(ConfigurationError) as caught:
        async with asyncio.timeout(120):
            await service.run()
    return str(caught.value)


def no_folder(path: Path) -> None:
    pass


def a_file(path: Path) -> None:
    path.write_text("")


def no_environment(path: Path) -> None:
    path.mkdir()


def not_executable(path: Path) -> None:
    (faked(path, "") / "bin" / "python").chmod(0o644)


def broken_python(path: Path) -> None:
    faked(path, "#!/bin/sh\necho 'error while loading shared libraries: libpython.so' >&2\nexit 127\n")


def silent_python(path: Path) -> None:
    faked(path, "#!/bin/sh\nkill -KILL $$\n")


def old_python(path: Path) -> None:
    faked(path, ANSWERING.format(python="3, 9", version=__version__))


def no_worker(path: Path) -> None:
    bare(path)


def other_version(path: Path) -> None:
    faked(path, ANSWERING.format(python="3, 12", version="0.1.7"))


def no_plugin(path: Path) -> None:
    equipped(path)


def deadly_plugin(path: Path) -> None:
    install(equipped(path), "reports", "import os\nos._exit(3)\n")


def other_plugin(path: Path) -> None:
    install(equipped(path), "others", "from gowork.worker import handler\n\n@handler\ndef other() -> None: ...\n")


CASES: list[tuple[Callable[[Path], None], str]] = [
    (no_folder, "does not exist; make it with: python3 -m venv {path}"),
    (a_file, "{path} is a file; name the folder of a virtual environment"),
    (no_environment, "{path} has no bin/python; name the folder of a virtual environment, or make one there with"),
    (not_executable, "{path}/bin/python can't be started: Permission denied; make the environment anew with"),
    (broken_python, "{path}/bin/python does not work: error while loading shared libraries: libpython.so; make"),
    (silent_python, "{path}/bin/python does not work: it was killed by signal 9 (SIGKILL); make"),
    (old_python, "{path} has Python 3.9, and gowork-worker needs 3.11; make it anew"),
    (
        no_worker,
        "{path} has no gowork-worker; install it: "
        "python3 -m pip --python {path}/bin/python install gowork-worker=={own}",
    ),
    (other_version, "{path} has gowork-worker 0.1.7, and this worker is {own}; give both the same version: "),
    (
        no_plugin,
        "{path} has no plugin with handlers; install one there with: python3 -m pip --python {path}/bin/python install",
    ),
    (
        deadly_plugin,
        "{path}: a runner ends there before it is ready (the runner exited with code 3); the log above",
    ),
    (other_plugin, "{path} has none of the plugins and handlers that are chosen; choose one of it too"),
]


@pytest.mark.parametrize(("make", "words"), CASES, ids=[make.__name__ for make, _ in CASES])
async def test_an_environment_that_cannot_be_used_is_refused_with_what_to_do(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "env"
    make(path)
    # Without a choice of plugins, nothing is absent.
    selection = Selection() if make is no_plugin else CHOSEN
    reason = await refusal(path, selection=selection)
    assert reason.startswith("plugin_envs: ")
    assert words.format(path=path, own=__version__) in reason


async def test_the_python_of_an_environment_in_place_of_its_folder_is_told_apart(reports: str) -> None:
    assert f"as in {reports}" in await refusal(f"{reports}/bin/python")


@pytest.mark.longer
async def test_all_environments_at_fault_are_named(tmp_path: Path, reports: str) -> None:
    reason = await refusal(tmp_path / "a", reports, tmp_path / "b")
    assert f"{tmp_path}/a does not exist" in reason
    assert f"{tmp_path}/b does not exist" in reason
    assert reports not in reason


async def test_the_folder_of_an_environments_programs_is_told_apart(reports: str) -> None:
    assert f"has no bin/python; name the folder of a virtual environment, as in {reports}" in await refusal(
        f"{reports}/bin"
    )


async def test_commands_that_an_error_names_can_be_pasted(tmp_path: Path) -> None:
    path = tmp_path / "my env"
    assert (await refusal(path)).endswith(f"make it with: python3 -m venv {shlex.quote(str(path))}")
    no_worker(path)
    assert f"install it: python3 -m pip --python {shlex.quote(f'{path}/bin/python')} install" in await refusal(path)


def print_at_the_end(path: Path) -> None:
    code = "import atexit, os\natexit.register(lambda: os.write(1, b'by\\n'))\n"
    (site_of(equipped(path)) / "sitecustomize.py").write_text(code)


def print_in_another_encoding(path: Path) -> None:
    code = "import sys\nsys.stdout.reconfigure(encoding='utf-16')\n"
    (site_of(equipped(path)) / "sitecustomize.py").write_text(code)


def shadow_libraries(path: Path) -> None:
    equipped(path)
    for module in ("json", "runpy"):
        Path(f"{module}.py").write_text(f"raise SystemExit('the {module} of the folder')\n")


@pytest.mark.parametrize("make", [print_at_the_end, print_in_another_encoding, shadow_libraries])
async def test_a_python_is_asked_for_its_version_whatever_it_prints_and_where_the_worker_runs(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "env")
    await environments.check_version(str(tmp_path / "env"), None)


@pytest.mark.parametrize(
    ("prefix", "variable", "found"),
    [
        ("/usr", "", "/e/bin:/usr/bin:/v/bin:/bin"),
        ("/v", "", "/e/bin:/usr/bin:/bin"),
        ("/usr", "/v", "/e/bin:/usr/bin:/bin"),
    ],
    ids=["no environment", "its own", "activated"],
)
def test_programs_of_the_workers_environment_alone_leave_the_path(
    prefix: str, variable: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", prefix)
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setenv("VIRTUAL_ENV", variable)
    monkeypatch.setenv("PATH", "/usr/bin:/v/bin:/bin")
    assert Interpreter.of("/e").variables()["PATH"] == found


@pytest.mark.parametrize("name", ["PYTHONPATH", "PYTHONHOME", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__"])
def test_a_variable_that_says_where_the_workers_libraries_are_is_not_handed_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "/v")
    assert name not in Interpreter.of("/e").variables()


def test_an_empty_path_does_not_become_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert Interpreter.of("/e").variables()["PATH"] == f"/e/bin:{os.defpath}"


HANGING = "#!/bin/sh\necho $$ > {pid}.new\nmv {pid}.new {pid}\nexec sleep 1000\n"


async def test_a_python_that_hangs_is_ended_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_exists: Callable[[int], bool]
) -> None:
    pid = tmp_path / "pid"
    path = faked(tmp_path / "env", HANGING.format(pid=pid))
    monkeypatch.setattr(environments, "VERSION_SECONDS_MAX", 1.0)
    assert f"{path}/bin/python did not answer within 1 s; make the environment anew" in await refusal(path)
    assert not pid.exists() or not process_exists(int(pid.read_text()))


@pytest.mark.longer
async def test_a_plugin_that_hangs_when_it_is_loaded_is_ended_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = equipped(tmp_path / "env")
    install(path, "reports", "import threading\nthreading.Event().wait()\n")
    monkeypatch.setattr(environments, "READY_SECONDS_MAX", 1.0)
    assert f"{path}: a runner is not ready there within 1 s; the log above says" in await refusal(path)


def hanging_python(path: Path, pid: Path) -> None:
    faked(path, HANGING.format(pid=pid))


def hanging_plugin(path: Path, pid: Path) -> None:
    lines = [
        "import os, pathlib, threading",
        f"new = pathlib.Path({str(pid)!r} + '.new')",
        "new.write_text(str(os.getpid()))",
        f"new.rename({str(pid)!r})",
        "threading.Event().wait()\n",
    ]
    install(equipped(path), "reports", "\n".join(lines))


@pytest.mark.longer
@pytest.mark.parametrize("make", [hanging_python, hanging_plugin])
async def test_a_worker_that_is_stopped_while_it_looks_at_an_environment_ends_at_once(
    tmp_path: Path, make: Callable[[Path, Path], None], eventually: Any, process_exists: Callable[[int], bool]
) -> None:
    path, pid = tmp_path / "env", tmp_path / "pid"
    make(path, pid)
    service = Service(Options(name="w", slots=1, runners=1, plugin_envs=(str(path),)), ["127.0.0.1:1"])
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        group.create_task(service.run())
        await eventually(pid.exists)
        service.stop()
    assert not process_exists(int(pid.read_text()))


async def test_a_handler_of_two_environments_is_refused_with_both_names(reports: str, own_environment: Path) -> None:
    reason = await refusal(reports, own_environment)
    assert f"'reports': {reports} (reports 1.5) and {own_environment} (reports 1.0)" in reason
    assert "choose plugins by --plugin" in reason


@pytest.mark.longer
async def test_a_handler_of_an_environment_and_of_the_worker_itself_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(MODULES))
    path = equipped(tmp_path / "env")
    install(path, "reports", "from gowork.worker import handler\n\n@handler\ndef noop() -> None: ...\n")
    reason = await refusal(path)
    assert f"'noop': the worker's own environment (worker_sample) and {path} (reports 1.0)" in reason


async def test_plugins_are_chosen_over_all_environments(
    leader: Any, start_worker: Any, own_environment: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(own_environment, "broken", "import nowhere\n")
    install(own_environment, "others", "from gowork.worker import handler\n\n@handler\ndef other() -> None: ...\n")
    selection = Selection(plugins=("echo", "reports", "broken", "nobody"))
    await start_worker(runners=1, selection=selection, plugin_envs=(str(own_environment),))
    scripted = await leader.session()
    names = {handler.name for handler in scripted.hello.handlers}
    assert names == {"echo", "reports", "reports-die", "reports-wait", "reports-print"}
    absent, broken = scripted.hello.plugin_errors
    assert absent == "nobody: no plugin of this name is installed"
    assert broken.startswith(f"{own_environment}: broken: ")


@pytest.mark.parametrize("how", ["option", "variable", "file"])
def test_the_command_takes_environments_and_names_those_at_fault(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--leader", "127.0.0.1:1", "--runners", "1"]
    if how == "option":
        arguments += ["--plugin-env", "a", "--plugin-env", "b"]
    elif how == "variable":
        monkeypatch.setenv("GOWORK_PLUGIN_ENV", "a b")
    else:
        Path("worker.toml").write_text('plugin-env = ["a", "b"]\n')
        arguments += ["--config", "worker.toml"]
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code == 2
    assert f"Error: plugin_envs: {tmp_path}/a does not exist" in answer.output
    assert f"{tmp_path}/b does not exist" in answer.output


async def test_a_program_is_told_of_an_environment_at_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    worker = Worker("127.0.0.1:1", runners=1, plugin_envs=[Path("none")])
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/none does not exist"):
        await worker.serve()


@pytest.mark.parametrize("path", ["/srv/env", b"/srv/env", Path("/srv/env")])
def test_a_path_in_place_of_a_list_of_environments_is_told_apart(path: Any) -> None:
    with pytest.raises(ConfigurationError, match="plugin_envs: give a list of paths, as in "):
        Worker("127.0.0.1:1", plugin_envs=path)
    Worker("127.0.0.1:1", plugin_envs=[path])


@pytest.mark.parametrize(
    ("paths", "runners", "words"),
    [
        ([f"/{number}" for number in range(PLUGIN_ENVS_MAX + 1)], 1, "plugin_envs: at most 16, not 17"),
        (["/a"], 0, "plugin_envs: they need runners"),
        (["/a", "/b", "/a/"], 1, "plugin_envs: /a and /a/ are the same environment"),
        ([""], 1, "plugin_envs: a path is empty"),
        (["\ud800"], 1, "plugin_envs"),
        (["/a\0b"], 1, r"plugin_envs: '/a\\x00b' is no path"),
        ([sys.prefix + "/"], 1, "is the worker's own environment, whose plugins it offers anyway; leave it out"),
    ],
    ids=["too many", "no runners", "one twice", "empty", "no text", "no path", "own"],
)
def test_environments_beyond_the_limits_are_refused(paths: list[str], runners: int, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Options(name="w", runners=runners, plugin_envs=tuple(paths))
    most = tuple(f"/{number}" for number in range(PLUGIN_ENVS_MAX))
    assert Options(name="w", plugin_envs=most).plugin_envs == most
