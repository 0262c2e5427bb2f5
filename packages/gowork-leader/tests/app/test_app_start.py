"""Starts that are refused: one clear message, exit code 1 (2 for usage), and no file is changed."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

import apsw
import click
import grpc
import pytest
from click.testing import CliRunner
from leader_process import FREE_PORTS, refused_start, running
from served_folder import served_folder
from tls_authority import Authority

from gowork.base.channels import AddressError, open_blocking_channel
from gowork.leader import Addresses
from gowork.leader._app.advertised import advertised_host, reached_here_alone
from gowork.leader._app.command import _PASSWORD, main
from gowork.leader._app.data_directory import own_directory
from gowork.leader._app.serving import _print_addresses
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc


def message_of(error: str) -> str:
    """The one line that tells what is wrong."""
    lines = [line for line in error.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, error
    return lines[0].removeprefix("Error: ")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A store that a leader has left behind, with one task."""
    with running(tmp_path) as leader:
        with open_blocking_channel([leader.scheduler]) as channel:
            task = pb.Task(id="kept", payload="x" * 10_000)
            scheduler_pb2_grpc.SchedulerServiceStub(channel).ScheduleTask(pb.ScheduleTaskRequest(task=task))
        assert leader.stop()[0] == 0
    return tmp_path / "gowork.db"


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(database: Path) -> None:
    with apsw.Connection(str(database)) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = database.read_bytes()
    code, error = refused_start(database.parent)
    assert code == 1
    assert f"{database} has format 999" in message_of(error)
    assert "left as it is" in error
    assert "newer" in error
    assert database.read_bytes() == before


@pytest.mark.parametrize("damage", ["overwritten", "cut", "text", "of another program"])
def test_a_database_that_is_no_whole_store_is_refused_and_left_as_it_is(database: Path, damage: str) -> None:
    content = database.read_bytes()
    if damage == "overwritten":
        database.write_bytes(content[:4096] + b"\xa5" * 8192 + content[12288:])
    elif damage == "cut":
        database.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        database.write_text("these are my notes\n" * 100)
    else:
        database.unlink()
        with apsw.Connection(str(database)) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        connection.close()
    before = database.read_bytes()
    code, error = refused_start(database.parent)
    assert code == 1
    assert str(database) in message_of(error)
    assert "left as it is" in error
    assert database.read_bytes() == before


def test_a_second_leader_on_a_database_is_refused_and_names_the_first(tmp_path: Path) -> None:
    with running(tmp_path) as leader:
        code, error = refused_start(tmp_path)
        assert code == 1
        assert f"in use by another leader (process {leader.process.pid})" in message_of(error)
        # A second name of the file is the same file.
        os.symlink(tmp_path / "gowork.db", tmp_path / "alias.db")
        assert "in use by another leader" in refused_start(tmp_path, f"--store=sqlite:///{tmp_path}/alias.db")[1]
        assert leader.page("/readyz")[0] == 200
    # One that was killed leaves nothing that would hinder the next.
    with running(tmp_path) as leader:
        assert leader.stop()[0] == 0


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A directory that can't be written, for root neither."""
    folder = tmp_path / "unwritable"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"root can write everywhere, and may not mount here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.longer
def test_a_store_on_a_file_system_of_the_network_is_refused_unless_an_option_says_otherwise(tmp_path: Path) -> None:
    with served_folder(tmp_path) as folder:
        for place in (f"--data-dir={folder}", f"--store=sqlite:///{folder}/gowork.db"):
            code, error = refused_start(tmp_path, place)
            assert code == 1
            assert "a file system of the network (fuse.test, mounted at" in message_of(error)
            # Then it gets as far as this file system, which takes no files.
            code, error = refused_start(tmp_path, place, "--store-on-network-file-system")
            assert code == 1
            assert "network" not in error
            assert "can't be written" in message_of(error)


def test_a_directory_that_cannot_be_written_is_refused(unwritable: Path) -> None:
    for folder in (unwritable, unwritable / "below"):
        code, error = refused_start(unwritable, f"--data-dir={folder}")
        assert code == 1
        assert f"{folder}/gowork.db can't be written" in message_of(error)
        assert "must be able to write" in error


@pytest.mark.parametrize("option", ["--cluster-listen", "--scheduler-listen", "--http-listen"])
def test_a_port_that_is_taken_is_refused(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, error = refused_start(tmp_path, f"{option}={address}")
    assert code == 1
    assert f"can't listen on {address}" in message_of(error)
    assert f"Choose another port by {option}, or 0 for a free one" in message_of(error)


def test_two_ports_that_are_the_same_are_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code, error = refused_start(tmp_path, f"--cluster-listen={address}", f"--scheduler-listen={address}")
    assert code == 1
    assert f"can't listen on {address}" in message_of(error)


def test_a_host_that_is_not_known_is_refused(tmp_path: Path) -> None:
    for option in ("--cluster-listen", "--http-listen"):
        code, error = refused_start(tmp_path, f"{option}=no-such-host.invalid:0", "--insecure")
        assert code == 1
        assert "can't listen on no-such-host.invalid:0" in message_of(error)


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("gowork.db", "is no store URL"),
        ("etcdd://x", "No store is known for etcdd://"),
        ("sqlite://host/x", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_store_that_makes_no_sense_is_refused(tmp_path: Path, store: str, words: str) -> None:
    code, error = refused_start(tmp_path, f"--store={store}")
    assert code == 1
    assert words in message_of(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 'red'", "unknown name 'colour'; known are access"),
        ("[leader]\nstore = 'x'", "unknown name 'leader'"),
        pytest.param("config = 'other.toml'", "unknown name 'config'", marks=pytest.mark.longer),
        pytest.param("version = true", "unknown name 'version'", marks=pytest.mark.longer),
        ("cluster_listen", "leader.toml: "),
        ("cluster_listen = '127.0.0.1'", "'127.0.0.1' is not HOST:PORT"),
        ("cluster_listen = 50051", "cluster_listen must be a string"),
        pytest.param("store = ['x']", "store must be a string", marks=pytest.mark.longer),
        ("reflection = 'maybe'", "'maybe' is not a valid boolean"),
        ("log_level = 'loud'", "'loud' is not one of"),
        pytest.param("log_level = 7", "log_level must be a string", marks=pytest.mark.longer),
    ],
)
def test_a_configuration_file_with_a_mistake_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "leader.toml").write_text(text)
    # Ports are left out: the command line would win over the file.
    code, error = refused_start(tmp_path, f"--config={tmp_path}/leader.toml", ports=())
    assert code == 2
    assert words in message_of(error)
    assert not (tmp_path / "gowork.db").exists()


def test_a_configuration_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name in ("absent.toml", "binary.toml"):
        code, error = refused_start(tmp_path, f"--config={tmp_path}/{name}")
        assert code == 2
        assert f"{tmp_path}/{name}: " in message_of(error)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"GOWORK_SCHEDULER_LISTEN": "nowhere"}, "'--scheduler-listen'"),
        ({"GOWORK_HTTP_LISTEN": "127.0.0.1:99999"}, "not HOST:PORT"),
        ({"GOWORK_REFLECTION": "perhaps"}, "'perhaps' is not a valid boolean"),
        ({"GOWORK_LOG_FORMAT": "xml"}, "'xml' is not one of"),
        ({"GOWORK_CONFIG": "absent.toml"}, "absent.toml: "),
    ],
)
def test_a_variable_with_a_mistake_is_refused_by_name(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    code, error = refused_start(tmp_path, ports=(), **variables)
    assert code == 2
    assert words in message_of(error)


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1:50051",
        "[::1]:50051",
        "[10.0.0.1",
        "a b",
        "a,b",
        "a/b",
        "a\nb",
        " ",
        "x" * 254,
        "0.0.0.0",
        "::",
        "[::]",
    ],
)
def test_a_host_that_nobody_reaches_is_not_advertised(host: str) -> None:
    with pytest.raises(AddressError, match="host"):
        advertised_host(host)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 257])
def test_a_name_that_would_garble_the_list_of_leaders_is_refused(name: str) -> None:
    with pytest.raises(click.BadParameter, match="a name is printable text of at most 256 bytes"):
        main.make_context("gowork-leader", [f"--name={name}"])


def test_a_host_is_advertised_without_brackets(tmp_path: Path) -> None:
    assert [advertised_host(host) for host in ("", "[::1]", "fe80::1%eth0", "node-1", "10.0.0.1")] == [
        "",
        "::1",
        "fe80::1%eth0",
        "node-1",
        "10.0.0.1",
    ]
    code, error = refused_start(tmp_path, "--advertise=10.0.0.1:50051")
    assert code == 2
    assert "'--advertise': '10.0.0.1:50051': give the host alone" in message_of(error)


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    code, error = refused_start(tmp_path, "--colour=red")
    assert code == 2
    assert "--colour" in message_of(error)


def test_options_come_from_the_command_line_before_variables_before_the_file(tmp_path: Path) -> None:
    for name in ("file", "variable", "line"):
        (tmp_path / name).mkdir()
    file = tmp_path / "leader.toml"
    file.write_text(
        f"data_dir = {json.dumps(str(tmp_path / 'file'))}\nreflection = false\n"
        "log_format = 'json'\nlog_level = 'error'\n"
    )
    variables: dict[str, Any] = {
        "GOWORK_CONFIG": str(file),
        "GOWORK_DATA_DIR": str(tmp_path / "variable"),
        "GOWORK_LOG_LEVEL": "info",
    }
    with running(tmp_path, f"--data-dir={tmp_path}/line", **variables) as leader:
        with open_blocking_channel([leader.cluster]) as channel:
            reflect: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            )
            with pytest.raises(grpc.RpcError) as caught:
                next(reflect(iter([b""]), timeout=120))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        code, log = leader.stop()
    assert code == 0
    assert (tmp_path / "line/gowork.db").exists()
    assert not (tmp_path / "file/gowork.db").exists()
    assert json.loads(log.splitlines()[0])["event"] == "keeps tasks"
    del variables["GOWORK_CONFIG"]
    with running(tmp_path, **variables) as leader:
        assert leader.stop()[0] == 0
    assert (tmp_path / "variable/gowork.db").exists()


def test_the_ports_of_a_leader_may_be_the_next_ones(tmp_path: Path) -> None:
    with running(tmp_path) as leader:
        addresses = (leader.cluster, leader.scheduler, leader.http)
        assert leader.stop()[0] == 0
    options = [option.partition("=")[0] for option in FREE_PORTS]
    again = [f"{option}={address}" for option, address in zip(options, addresses, strict=True)]
    with running(tmp_path, *again) as leader:
        assert (leader.cluster, leader.scheduler, leader.http) == addresses


def test_a_task_that_can_not_be_read_ends_the_leader_with_its_name(tmp_path: Path) -> None:
    with running(tmp_path) as leader, open_blocking_channel([leader.scheduler]) as channel:
        request = pb.ScheduleTaskRequest(task=pb.Task(id="torn", handler="h"))
        scheduler_pb2_grpc.SchedulerServiceStub(channel).ScheduleTask(request, timeout=120)
        leader.stop()
    (store,) = tmp_path.glob("**/*.db")
    with closing(apsw.Connection(str(store))) as connection, connection:
        connection.execute("UPDATE specs SET body = x'0a7f'")
    code, log = refused_start(tmp_path)
    assert code == 1
    assert "'torn'" in message_of(log)
    assert "start from a backup" in message_of(log)


def test_a_relative_directory_in_a_working_directory_that_is_gone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    result = CliRunner().invoke(main, ["--data-dir", "x"])
    assert result.exit_code == 2
    assert "--data-dir: the working directory is gone" in result.output


@pytest.mark.parametrize("days", ["nan", "inf", "-1", "36501", "1e300"])
@pytest.mark.parametrize("option", ["--retain-days", "--retain-failed-days"])
def test_a_retention_that_no_clock_reaches_is_refused(option: str, days: str) -> None:
    result = CliRunner().invoke(main, [option, days])
    assert result.exit_code == 2
    assert f"'{option}'" in result.output
    assert "0<=x<=36500" in result.output or "not a number of days" in result.output


def test_snapshots_without_a_log_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--data-dir", str(tmp_path), "--snapshots", str(tmp_path)])
    assert result.exit_code == 2
    assert "--snapshots is for leaders that share a log; give --log, too" in result.output


@pytest.mark.parametrize("place", ["s3://bucket", "postgresql://user:secret@host/db?schema=a-b"])
def test_a_place_for_snapshots_that_makes_no_sense_is_told_in_one_line_without_its_password(
    tmp_path: Path, place: str
) -> None:
    result = CliRunner().invoke(
        main, ["--data-dir", str(tmp_path), "--log", "etcd://127.0.0.1:1/a", "--snapshots", place]
    )
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert "secret" not in result.output


@pytest.mark.parametrize("option", ["--retain-tasks", "--retain-failed-tasks"])
def test_more_tasks_than_a_store_may_hold_are_not_kept(option: str) -> None:
    result = CliRunner().invoke(main, [option, "1000000001"])
    assert result.exit_code == 2
    assert "0<=x<=1000000000" in result.output


def test_an_interrupt_before_it_serves_exits_with_130_and_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(url: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gowork.leader._app.command.open_store", interrupted)
    for name in ("settle",):
        monkeypatch.setattr(f"gowork.leader._app.command.process_state.{name}", lambda: None)
    for name in ("configure", "take_standard_error"):
        monkeypatch.setattr(f"gowork.leader._app.command.logs.{name}", lambda *arguments: None)
    result = CliRunner().invoke(main, ["--data-dir", "/nowhere"])
    assert (result.exit_code, result.output) == (130, "")


def test_a_user_without_a_home_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(click.UsageError, match="no home directory"):
        own_directory()


def test_a_password_in_the_address_of_a_store_is_not_logged() -> None:
    assert _PASSWORD.sub("//", "etcd://user:secret@host:2379/x") == "etcd://host:2379/x"
    assert _PASSWORD.sub("//", "sqlite:////var/lib/a@b/gowork.db") == "sqlite:////var/lib/a@b/gowork.db"


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        ("--retain-tasks", "GOWORK_RETAIN_TASKS", "many"),
        ("--http-listen", "GOWORK_HTTP_LISTEN", "nonsense"),
        ("--log-format", "GOWORK_LOG_FORMAT", "xml"),
    ],
)
def test_a_variable_with_a_bad_value_is_named(
    monkeypatch: pytest.MonkeyPatch, option: str, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert f"Invalid value for '{option}' (variable {name}): " in result.stderr


@pytest.fixture
def full_disk() -> Iterator[TextIO]:
    """A file on a disk without room."""
    with open("/dev/full", "w") as full:
        yield full


async def test_addresses_that_can_not_be_printed_end_no_leader(
    full_disk: TextIO, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", full_disk)
    started: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    started.set_result(Addresses("a:1", "b:2", "c:3"))
    _print_addresses("", started)
    # What was buffered goes nowhere.
    full_disk.flush()
    assert "addresses can't be printed on standard output" in caplog.text


@pytest.mark.parametrize(
    ("log", "advertise", "listened", "host"),
    [
        ("etcd://10.0.0.1:2379,10.0.0.2:2379/gowork", "", "127.0.0.1:50051", "127.0.0.1"),
        ("etcd://user:secret@127.0.0.1:2379,10.0.0.2:2379/gowork", "", "[::1]:50051", "::1"),
        ("postgresql://gowork@db/gowork", "localhost", "10.0.0.1:50051", "localhost"),
        ("etcd://10.0.0.1:2379/gowork", "", "10.0.0.1:50051", ""),
        ("etcd://10.0.0.1:2379/gowork", "10.0.0.1", "127.0.0.1:50051", ""),
        ("etcd://10.0.0.1:2379/gowork", "", "0.0.0.0:50051", ""),
        ("etcd://127.0.0.1:2379,[::1]:2379/gowork", "", "127.0.0.1:50051", ""),
        ("postgresql:///gowork?host=/run/postgresql", "", "127.0.0.1:50051", ""),
    ],
)
def test_a_leader_that_the_others_can_not_reach_is_noticed(log: str, advertise: str, listened: str, host: str) -> None:
    assert reached_here_alone(log, advertise, listened, listened) == host


def test_a_leader_that_the_others_can_not_reach_says_so(tmp_path: Path) -> None:
    with running(tmp_path, "--log", "etcd://nowhere.invalid:2379/gowork") as leader:
        log = leader.stop()[1]
    (line,) = [line for line in log.splitlines() if "can't reach this one" in line]
    assert " warning " in line
    assert "host=127.0.0.1" in line
    assert "--advertise" in line


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:0",
        "192.0.2.1:0",
        *(
            pytest.param(other, marks=pytest.mark.longer)
            for other in ("[::]:0", ":0", "leader.example:0", "[::0]:0", "[::ffff:0.0.0.0]:0", "[::%0]:0")
        ),
    ],
)
@pytest.mark.parametrize("option", ["--cluster-listen", "--scheduler-listen"])
def test_a_port_that_other_machines_reach_and_that_asks_nobody_is_refused(
    tmp_path: Path, option: str, address: str
) -> None:
    code, error = refused_start(tmp_path, f"{option}={address}")
    assert code == 2
    assert f"other machines reach {address}" in message_of(error)
    assert "--insecure (GOWORK_INSECURE=1)" in message_of(error)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--access=missing.toml"], "--access: missing.toml can't be read: No such file"),
        (["--access=tokens.toml", "--log=etcd://127.0.0.1:1/x"], "leaders with a log know one another by certificates"),
        (["--access="], "is empty; leave the option out"),
        (["--tls-client-ca="], "is empty; leave the option out"),
        (["--access=tokens.toml", "--cluster-listen=0.0.0.0:0"], "tokens can be read on their way"),
        (["--http-token-file=missing"], "--http-token-file: missing can't be read"),
        (["--http-token-file=empty.toml"], "--http-token-file: empty.toml has no token"),
    ],
)
def test_files_about_access_that_do_not_suffice_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    (tmp_path / "empty.toml").touch()
    (tmp_path / "tokens.toml").write_text("# nobody yet")
    monkeypatch.chdir(tmp_path)
    code, error = refused_start(tmp_path, *options)
    assert (code, words in message_of(error)) == (2, True), error


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("x" * 120, "has at most"),
        ("folder/s", "can't listen"),
        ("file", "can't listen"),
        ("open/s", "written by others"),
    ],
)
def test_a_socket_for_a_proxy_that_can_not_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    (tmp_path / "file").write_text("of somebody")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.chdir(tmp_path)
    code, error = refused_start(tmp_path, f"--proxy-listen={path}")
    assert (code, words in message_of(error)) == (1, True), error
    assert (tmp_path / "file").read_text() == "of somebody"


def test_a_leader_among_several_has_a_leader_s_certificate(tmp_path: Path) -> None:
    files = Authority(tmp_path).server("x", client_ca=tmp_path / "ca.pem", role="worker")
    given = [f"--tls-cert={files.cert}", f"--tls-key={files.key}", f"--tls-client-ca={files.client_ca}"]
    code, error = refused_start(tmp_path, *given, "--log=etcd://127.0.0.1:1/x")
    assert (code, "it needs the URI gowork://leader/NAME" in message_of(error)) == (2, True), error
