"""The scenario `peers` of the benchmarks: what it works out, and that a system which fails hinders no other."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from packaging.requirements import Requirement
from rich.console import Console

pytestmark = pytest.mark.usefixtures("benchmarks")

#: Answers each request with what its line of ANSWERS has; it is put before what a test adds.
ANSWERING = """
    import json, os, subprocess, sys, time
    ANSWERS = {
        "start": {},
        "burst": {"submitted": 0.5, "completed": 2.0},
        "singles": {"ms": [1.0, 2.0, 9.0]},
    }
    def answer(line):
        print(json.dumps(ANSWERS[json.loads(line)["do"]]), flush=True)
"""
OBEDIENT = "for line in sys.stdin: answer(line)"
#: Two processes that the adapter starts, one of them in a session of its own. Both tell their ids by `told`.
WITH_CHILDREN = """
    child = [sys.executable, "-c", "import signal; signal.pause()"]
    children = [subprocess.Popen(child), subprocess.Popen(child, start_new_session=True)]
    def tell(path):
        with open(path, "w") as told:
            told.write(json.dumps([os.getpid(), *[each.pid for each in children]]))
"""


def script(path: Path, *parts: str) -> Path:
    path.write_text("\n".join(textwrap.dedent(part) for part in parts))
    return path


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = importlib.import_module("peers")
    monkeypatch.setattr(module, "syncs_per_second", lambda directory: 1000.0)
    return module


@pytest.fixture
def environments() -> Any:
    return importlib.import_module("peer_environments")


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Any]:
    module = importlib.import_module("peer_adapter")

    def made(*parts: str, seconds: float = 30.0) -> Any:
        program = script(tmp_path / "fake_adapter.py", *parts)
        return module.Adapter(Path(sys.executable), program, {}, tmp_path / "log", seconds)

    return made


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# What is worked out.


@pytest.mark.parametrize(
    ("per_second", "most", "tasks"),
    [
        (10.0, 100_000, 50),
        (100.0, 100_000, 500),
        (432.0, 100_000, 2_200),
        (20_000.0, 100_000, 100_000),
        (20_000.0, 150, 150),
        (100.0, 20, 20),
    ],
)
def test_a_burst_has_the_number_of_tasks_that_fits_the_speed(
    peers: Any, per_second: float, most: int, tasks: int
) -> None:
    tried: list[int] = []

    def seconds_of(count: int) -> float:
        tried.append(count)
        return count / per_second

    assert peers.calibrated(seconds_of, most) == tasks
    assert max(tried) <= most


def entrants_and_turns(peers: Any) -> tuple[list[Any], dict[str, list[Any]]]:
    """Gowork, a fast peer that was slow once, and a slow one."""
    rates = {"gowork": [20_000, 10_000, 30_000], "fast": [1_000, 10, 1_000], "slow": [100, 100, 100]}
    systems = [peers.GOWORK, peers.System("fast", "Fast", "redis", "Redis", ("fast==1.2", "other==3"))]
    systems.append(peers.System("slow", "Slow", "", "SQLite", ("slow==4",)))
    entrants = [peers.Entrant(system, Path(), 1_000) for system in systems]
    turns = {
        name: [peers.Turn(2.0 * rate, rate, ms, 9.0, 10.0, 20.0) for rate, ms in zip(of, (1.0, 5.0, 2.0), strict=True)]
        for name, of in rates.items()
    }
    return entrants, turns


def test_gowork_is_compared_with_the_peer_that_is_fastest_in_the_median(peers: Any) -> None:
    first, *_ = peers.compared(*entrants_and_turns(peers))
    assert first.name == "gowork / Fast, the fastest peer: end to end"
    assert first.rounds == [20.0, 1000.0, 30.0]
    assert (first.value, first.target, first.met) == (30.0, 25.0, True)


def test_each_system_has_medians_of_its_rounds(peers: Any) -> None:
    measures = {measure.name: measure for measure in peers.compared(*entrants_and_turns(peers))}
    assert measures["Fast: end to end"].value == 1_000
    assert measures["Fast: submitted"].value == 2_000
    assert measures["Slow: submit → result, p50"].value == 2.0
    assert measures["gowork: resident, at the end"].value == 20.0


def test_without_a_peer_there_is_no_ratio(peers: Any) -> None:
    entrants, turns = entrants_and_turns(peers)
    measures = peers.compared(entrants[:1], {"gowork": turns["gowork"]})
    assert [measure.name for measure in measures if measure.target is not None] == []


def test_each_system_is_first_once(peers: Any) -> None:
    assert [peers.rotated("abc", turn) for turn in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_the_table_names_date_machine_and_versions_and_has_the_fastest_first(peers: Any) -> None:
    facts = {"time": "2026-11-30T01:02:03", "processor": "A", "cores": "2", "memory": "24 GiB"}
    facts |= {"kernel": "Linux 6", "file system": "ext4", "Python": "CPython 3.11"}
    about, _, _, _, *rows = peers.markdown(
        facts, {"gowork": "0.2.0", "redis": "7.0.15"}, *entrants_and_turns(peers)
    ).splitlines()
    assert about == (
        "2026-11-30, A, 2 cores, 24 GiB, Linux 6, ext4, CPython 3.11, Redis 7.0.15. "
        "Medians of 3 rounds, with the lowest and highest in brackets."
    )
    assert rows == [
        "| **gowork 0.2.0, SQLite** | 20,000 (10,000 to 30,000) | – | 40,000 | 2.00 ms; 9.00 ms | 10.00 MB; 20.00 MB "
        "| 1,000 |",
        "| Fast 1.2, Redis | 1,000 (10.00 to 1,000) | 30.00 times as fast | 2,000 | 2.00 ms; 9.00 ms "
        "| 10.00 MB; 20.00 MB | 1,000 |",
        "| Slow 4, SQLite | 100 (100 to 100) | 200 times as fast | 200 | 2.00 ms; 9.00 ms | 10.00 MB; 20.00 MB "
        "| 1,000 |",
    ]


# What is pinned and installed.


def test_every_peer_has_an_adapter_and_one_version_of_each_library(environments: Any) -> None:
    systems = environments.peers()
    assert len(systems) == 7
    for system in systems:
        assert system.adapter.is_file()
        assert system.server in {"", "redis", "postgresql"}
        assert system.version
        for line in system.requirements:
            assert [part.operator for part in Requirement(line).specifier] == ["=="], line


def test_no_group_of_dependencies_needs_a_peer(environments: Any) -> None:
    groups = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["dependency-groups"]
    needed = {Requirement(line).name for group in groups.values() for line in group if isinstance(line, str)}
    assert not needed & {Requirement(system.requirements[0]).name for system in environments.peers()}


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program on PATH, alone, as uv; returns the file to which it appends its arguments."""

    def put(body: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        called = tmp_path / "called"
        program = script(folder / "uv", f"#!{sys.executable}", "import sys", f"open({str(called)!r}, 'a')", body)
        program.write_text(program.read_text().replace("'a')", "'a').write(' '.join(sys.argv[1:]) + '\\n')"))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return called

    return put


def test_an_environment_is_made_once_for_each_set_of_versions(
    environments: Any, tmp_path: Path, uv: Callable[[str], Path]
) -> None:
    called = uv("""
        import pathlib
        if sys.argv[1] == "venv":
            (pathlib.Path(sys.argv[-1]) / "bin").mkdir(parents=True, exist_ok=True)
            (pathlib.Path(sys.argv[-1]) / "bin/python").touch()
    """)
    system, other = (environments.System("x", "X", "", "", (f"x=={version}",)) for version in (1, 2))
    python = environments.environment(system, tmp_path)
    assert environments.environment(system, tmp_path) == python
    assert environments.environment(other, tmp_path) != python
    commands = [line.split()[0] for line in called.read_text().splitlines()]
    assert commands == ["venv", "pip"] * 2
    python.unlink()
    assert environments.environment(system, tmp_path) == python
    assert python.exists()


def test_what_could_not_be_installed_says_why_and_is_tried_again(
    environments: Any, tmp_path: Path, uv: Callable[[str], Path]
) -> None:
    system = environments.System("x", "X", "", "", ("x==1",))
    called = uv("print('much', 'no such version', sep='\\n', file=sys.stderr); sys.exit(sys.argv[1] == 'pip')")
    for _ in range(2):
        with pytest.raises(environments.LeftOutError, match=r"^it can't be installed"):
            environments.environment(system, tmp_path)
    assert len(called.read_text().splitlines()) == 4


# Adapters.


def test_an_adapter_starts_its_workers_and_tells_how_long_tasks_took(adapter: Callable[..., Any]) -> None:
    with adapter(ANSWERING, OBEDIENT) as obedient:
        obedient.start()
        burst = obedient.burst(7)
        assert (burst.submitted, burst.completed) == (0.5, 2.0)
        assert obedient.singles(300, 5.0) == [1.0, 2.0, 9.0]


def whole_turn(adapter: Any) -> None:
    adapter.start()
    adapter.burst(7)
    adapter.singles(3, 5.0)


def answering(do: str, answer: str) -> str:
    return f"ANSWERS[{do!r}] = {answer}\n{OBEDIENT}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('no such library')", "its adapter ended during 'start': no such library"),
        (
            "answer(sys.stdin.readline()); sys.stdin.readline(); sys.exit('broken')",
            "its adapter ended during 'burst': broken",
        ),
        ("print('hello', flush=True); time.sleep(60)", "its adapter answers no JSON to 'start': hello"),
        ("print('[' * 99_999, flush=True); time.sleep(60)", r"its adapter answers no JSON to 'start': \[+…"),
        (answering("start", "[1]"), r"its adapter answers no object to 'start': \[1\]"),
        (answering("start", "{'error': 'E: no\\nmore'}"), "'start' failed: E: no"),
        ("print('x' * 2_000_000, flush=True)", "its adapter answers 'start' with more than 1048576 bytes"),
        (answering("burst", "{}"), "its adapter gives a time that is none: None"),
        (answering("burst", "{'submitted': -1, 'completed': 2}"), "its adapter gives a time that is none: -1"),
        (answering("burst", "{'submitted': 1, 'completed': float('inf')}"), "its adapter gives a time .* none: inf"),
        (answering("burst", "{'submitted': float('nan'), 'completed': 1}"), "its adapter gives a time .* none: nan"),
        (answering("burst", "{'submitted': True, 'completed': 2}"), "its adapter gives a time that is none: True"),
        (answering("burst", "{'submitted': 3, 'completed': 2}"), "its adapter says that tasks completed before .*"),
        (answering("singles", "{'ms': []}"), r"its adapter gives no list of at most 3 times: \[\]"),
        (answering("singles", "{'ms': [1] * 4}"), "its adapter gives no list of at most 3 times: .*"),
        (answering("singles", "{'ms': ['1']}"), "its adapter gives a time that is none: 1"),
    ],
)
def test_an_adapter_that_dies_or_says_nonsense_gives_a_reason(
    adapter: Callable[..., Any], environments: Any, body: str, reason: str
) -> None:
    with adapter(ANSWERING, body) as faulty, pytest.raises(environments.LeftOutError) as left_out:
        whole_turn(faulty)
    assert re.fullmatch(reason, str(left_out.value))


def test_an_adapter_that_hangs_gives_a_reason(adapter: Callable[..., Any], environments: Any) -> None:
    with adapter(ANSWERING, "time.sleep(600)", seconds=0.2) as hanging:
        with pytest.raises(environments.LeftOutError, match=r"^its adapter did not answer 'start' within 0.2 s$"):
            hanging.start()


@pytest.mark.parametrize("end", ["for line in sys.stdin: answer(line)", "answer(sys.stdin.readline()); time.sleep(60)"])
def test_the_end_of_an_adapter_ends_all_that_it_has_started(
    adapter: Callable[..., Any], tmp_path: Path, end: str
) -> None:
    told = tmp_path / "told"
    with adapter(ANSWERING, WITH_CHILDREN, f"tell({str(told)!r})", end) as running:
        running.start()
        pids = json.loads(told.read_text())
        assert sorted(process.pid for process in running.started) == sorted(pids[1:])
        assert importlib.import_module("peer_adapter").resident_mb(running.started) > 0
    assert all(map(gone, pids))


@pytest.fixture
def producer(tmp_path: Path, benchmarks: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that answers as adapters do, with a worker that waits."""
    body = """
        import time
        from conversation import converse, worker
        def start():
            print("a word of a library")
            print(worker("-c", "import signal; signal.pause()").pid, file=open("worker", "w"))
        def burst(tasks):
            if tasks > 1:
                raise ValueError("too many")
            return time.perf_counter()
        converse(start, burst, lambda: None)
    """
    process = subprocess.Popen(
        [sys.executable, str(script(tmp_path / "producer.py", body))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(benchmarks / "adapters")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        yield process
        process.kill()


def test_adapters_answer_in_lines_of_json_and_end_with_their_input(
    producer: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert producer.stdin
    assert producer.stdout

    def ask(**request: object) -> Any:
        assert producer.stdin
        assert producer.stdout
        producer.stdin.write(json.dumps(request) + "\n")
        producer.stdin.flush()
        return json.loads(producer.stdout.readline())

    assert ask(do="start") == {}
    assert ask(do="burst", tasks=2) == {"error": "ValueError: too many"}
    assert 0 < ask(do="burst", tasks=1)["submitted"] < 60
    assert len(ask(do="singles", samples=3, seconds=60)["ms"]) == 3
    (worker,) = psutil.Process(producer.pid).children()
    producer.stdin.close()
    assert producer.wait(30) == -signal.SIGKILL
    psutil.wait_procs([worker], timeout=30)
    assert gone(worker.pid)


def test_the_adapter_of_gowork_runs_tasks(tmp_path: Path, environments: Any, peers: Any) -> None:
    adapters = importlib.import_module("peer_adapter")
    variables = {"PEER_FOLDER": str(tmp_path)}
    script = peers.GOWORK.adapter
    with adapters.Adapter(Path(sys.executable), script, variables, tmp_path / "log", 120.0) as gowork:
        gowork.start()
        assert gowork.burst(20).completed < 60
        assert len(gowork.singles(2, 60.0)) == 2


# Servers, and a whole run.


@pytest.mark.parametrize(("server", "program"), [("redis", "redis-server"), ("postgresql", "initdb, postgres")])
def test_a_server_that_is_missing_is_named(
    server: str, program: str, environments: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    servers = importlib.import_module("peer_servers")
    with pytest.raises(environments.LeftOutError, match=rf"^not on PATH: {program}; see docs/benchmarks\.md$"):
        with servers.running(server, tmp_path):
            pass


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a program on PATH that stands in for Redis: it makes the socket, and waits."""
    body = """
        import signal, socket, sys
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(sys.argv[sys.argv.index("--unixsocket") + 1])
        signal.pause()
    """
    program = script(tmp_path / "redis-server", f"#!{sys.executable}", body)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("redis")
def test_a_server_ends_with_its_turn(tmp_path: Path) -> None:
    servers = importlib.import_module("peer_servers")
    with servers.running("redis", tmp_path) as server:
        (process,) = server.processes
    assert gone(process.pid)


@pytest.mark.tool("postgres", "initdb")
def test_postgresql_has_its_data_in_the_folder_of_the_turn() -> None:
    servers = importlib.import_module("peer_servers")
    # pytest's own folders can't be entered by another user.
    folder = Path(tempfile.mkdtemp(prefix="gowork-peers-"))
    folder.chmod(0o711)
    try:
        with servers.running("postgresql", folder) as server:
            assert str(folder) in server.address
            processes = server.processes
            assert len(processes) > 1
            assert importlib.import_module("peer_adapter").resident_mb(processes) > 1
        assert all(gone(process.pid) for process in processes)
        assert [*folder.iterdir()] == []
    finally:
        shutil.rmtree(folder)
    assert servers.version_of("postgresql")[0].isdigit()


@pytest.mark.parametrize("error", [AssertionError, LookupError, FileNotFoundError])
def test_a_server_that_does_not_start_gives_a_reason(
    error: type[Exception], environments: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = importlib.import_module("peer_servers")

    def failing(directory: Path) -> Any:
        raise error("a\nno user")

    monkeypatch.setattr(servers, "missing", lambda server: "")
    monkeypatch.setattr(servers, "PostgresqlServer", failing)
    with pytest.raises(environments.LeftOutError, match="^PostgreSQL does not start: .*no user"):
        with servers.running("postgresql", tmp_path):
            pass


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    report = importlib.import_module("report")
    return report.Bench(tmp_path, 3, 100, report.progress_on(Console(file=io.StringIO())))


def adapters_of(
    environments: Any, peers: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, **bodies: Sequence[str]
) -> None:
    """Has these systems measured, each with an adapter of these parts."""
    monkeypatch.setattr(environments, "ADAPTERS", folder)
    for name, parts in bodies.items():
        script(folder / f"{name}_adapter.py", ANSWERING, *parts)
    systems = [environments.System(name, name.title(), "", "SQLite") for name in bodies if name != "gowork"]
    monkeypatch.setattr(peers, "peers", lambda: systems)


def test_the_others_go_on_without_a_system_that_fails(
    environments: Any, peers: Any, bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It begins once to be calibrated, and once in each round. So it dies in the second round of three.
    counted = """
        with open("turns", "a") as turns:
            turns.write("x")
        if os.path.getsize("turns") == 3:
            sys.exit("out of luck")
    """
    adapters_of(
        environments, peers, tmp_path, monkeypatch,
        gowork=[OBEDIENT], good=[OBEDIENT], early=["sys.exit('no library')"], late=[counted, OBEDIENT],
    )  # fmt: skip
    measures = {measure.name: measure for measure in peers.run(bench)}
    assert bench.left_out == {
        "Early": "its adapter ended during 'start': no library",
        "Late": "its adapter ended during 'start': out of luck",
    }
    assert measures["gowork / Good, the fastest peer: end to end"].rounds == [1.0, 1.0, 1.0]
    assert [name for name in measures if "Late" in name or "Early" in name] == []
    assert [line.split()[1] for line in bench.markdown.splitlines()[4:]] == ["**gowork", "Good"]
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_without_gowork_there_is_no_comparison(
    environments: Any, peers: Any, bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters_of(environments, peers, tmp_path, monkeypatch, gowork=["sys.exit('broken')"], good=[OBEDIENT])
    with pytest.raises(peers.StartError, match=r"^gowork can't be measured: its adapter ended during 'start': broken$"):
        peers.run(bench)


def test_what_was_left_out_is_shown_and_written(bench: Any, tmp_path: Path) -> None:
    report = importlib.import_module("report")
    bench.left_out["Some[thing]"] = "not on PATH: it"
    bench.markdown = "| a | b |"
    console = Console(file=io.StringIO(), width=20)
    report.show_rest(console, bench)
    assert console.file.getvalue() == "left out: Some[thing]: not on PATH: it\n\n| a | b |\n"  # type: ignore[attr-defined]
    report.write_json(tmp_path / "figures", {}, [], bench.left_out)
    assert json.loads((tmp_path / "figures").read_text())["left_out"] == {"Some[thing]": "not on PATH: it"}


def test_peers_are_not_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    run = importlib.import_module("run")
    done: list[str] = []

    def noting(name: str) -> Callable[[Any], list[Any]]:
        def scenario(bench: Any) -> list[Any]:
            done.append(name)
            return []

        return scenario

    for name in run.SCENARIOS:
        monkeypatch.setitem(run.SCENARIOS, name, noting(name))
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(run, "is_on_disk", lambda directory: True)
    assert run.main() == 0
    assert {"throughput", "sequential"} <= set(done)
    assert not {"ha", "peers"} & set(done)


def first_of(told: Path, driver: subprocess.Popen[bytes]) -> str:
    """What is written into a pipe, all at once; empty: the process that is to have it written has ended."""
    pipe, ended = os.open(told, os.O_RDONLY | os.O_NONBLOCK), os.pidfd_open(driver.pid)
    try:
        ready, _, _ = select.select([pipe, ended], [], [], 120)
        return os.read(pipe, 1 << 16).decode() if pipe in ready else ""
    finally:
        os.close(pipe)
        os.close(ended)


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_adapters_workers_and_servers(number: signal.Signals, benchmarks: Path, tmp_path: Path) -> None:
    told, disk = tmp_path / "told", tmp_path / "disk"
    disk.mkdir()
    os.mkfifo(told)
    # Gowork's adapter tells that it has begun, and never answers.
    hanging = [ANSWERING, WITH_CHILDREN, f"tell({str(told)!r})", "time.sleep(600)"]
    script(tmp_path / "gowork_adapter.py", *hanging)
    body = f"""
        import runpy, sys
        from pathlib import Path
        sys.path.insert(0, {str(benchmarks)!r})
        import peer_environments, peers, report
        peer_environments.ADAPTERS = Path({str(tmp_path)!r})
        peers.GOWORK = peers.System("gowork", "gowork", "redis", "Redis")
        peers.peers = lambda: []
        report.is_on_disk = lambda directory: True
        sys.argv = ["run.py", "peers", "--directory", {str(disk)!r}]
        runpy.run_path({str(benchmarks / "run.py")!r}, run_name="__main__")
    """
    command = [sys.executable, str(script(tmp_path / "driver.py", body))]
    said = tmp_path / "said"
    with said.open("w") as output, subprocess.Popen(command, stderr=output, stdout=output) as driver:
        pids = json.loads(first_of(told, driver) or pytest.fail(said.read_text()))
        started = psutil.Process(driver.pid).children(recursive=True)
        names = [" ".join(process.cmdline()) for process in started]
        assert sum("redis-server" in name for name in names) == 1
        driver.send_signal(number)
        assert driver.wait(60) == 130
    everything = [*pids, *(process.pid for process in started)]
    assert len(set(everything)) == 4
    assert [pid for pid in everything if not gone(pid)] == []
    assert [*disk.iterdir()] == []
