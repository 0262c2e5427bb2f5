"""The group of commands, and the forms of what goes in and out."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib import metadata
from importlib.metadata import EntryPoint, PackageNotFoundError
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gowork.cli import group
from gowork.cli.output import ago, span
from gowork.cli.parameters import duration_s, moment
from gowork.cli.records import (
    activity_record,
    explanation_record,
    member_record,
    queue_record,
    stats_record,
    task_record,
)
from gowork.cli.root import cli
from gowork.client import (
    Activity,
    Attempt,
    AttemptOutcome,
    Client,
    Explanation,
    Failure,
    FailureKind,
    LeaderUnreachable,
    Liveness,
    Member,
    MemberKind,
    MemberStats,
    Progress,
    Queue,
    QueueActivity,
    QueueCounts,
    QueueStats,
    RetryPolicy,
    Stats,
    TaskInfo,
    TaskStatus,
    TaskView,
    WaitCode,
    WaitReason,
)
from gowork.client.frames import Frame, QueueRow
from gowork.client.rates import Flow

COMMANDS = [
    "add",
    "cancel",
    "completion",
    "doctor",
    "drain",
    "handlers",
    "leaders",
    "members",
    "remove",
    "schedules",
    "show",
    "stats",
    "tasks",
    "top",
    "up",
    "wait",
]


@pytest.mark.parametrize("command", ["worker", "leader"])
def test_options_that_a_command_of_another_package_would_not_see_are_refused(command: str) -> None:
    told = CliRunner().invoke(cli, ["--leader", "10.0.0.5:1", "--tls-ca=x", command, "--help"])
    assert told.exit_code == 2
    assert f"'{command}' has options of its own; give" in told.output
    assert "--leader" in told.output
    assert "--tls-ca" in told.output
    environment = {"GOWORK_LEADER": "10.0.0.5:1"}
    assert CliRunner().invoke(cli, [command, "--help"], env=environment).exit_code == 0


def contribute(
    folder: Path, monkeypatch: pytest.MonkeyPatch, distribution: str, source: str, command: str | None = None
) -> None:
    """Puts a distribution on the path that contributes a command."""
    monkeypatch.syspath_prepend(str(folder))
    module = f"commands_of_{distribution}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gowork.commands]\n{command or distribution} = {module}:command\n")


class TestGroup:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_help_has_examples(self, invoke, command: str) -> None:
        result = invoke([command, "--help"])
        assert result.exit_code == 0
        assert "Examples:" in result.stdout
        assert f"gowork {command}" in result.stdout or command == "remove"

    def test_the_help_lists_every_command_with_a_summary(self, invoke) -> None:
        output = invoke(["--help"]).stdout
        for command in [*COMMANDS, "leader", "plugins", "worker"]:
            assert any(line.split()[:1] == [command] and len(line.split()) > 2 for line in output.splitlines())

    def test_the_version_is_told(self, invoke) -> None:
        assert invoke(["--version"]).stdout.startswith("gowork, version ")

    def test_an_unknown_command_exits_with_2(self, invoke) -> None:
        assert invoke(["wokrer"]).exit_code == 2

    @pytest.mark.parametrize(
        ("words", "meant"),
        [
            (["wokrer"], "'worker'"),
            (["task"], "'tasks'"),
            (["queues", "puase"], "'pause'"),
            (["store", "bakcup"], "'backup'"),
        ],
    )
    def test_a_command_of_nearly_that_name_is_offered(self, invoke, words: list[str], meant: str) -> None:
        result = invoke(words)
        assert result.exit_code == 2
        assert f"did you mean {meant}" in result.stderr

    def test_an_option_of_nearly_that_name_is_offered(self, invoke) -> None:
        result = invoke(["add", "--handlr", "x"])
        assert result.exit_code == 2
        assert "--handler" in result.stderr

    def test_no_command_is_imported_before_it_is_called(self) -> None:
        packages = ("gowork.cli.commands", "gowork.leader", "gowork.worker")
        code = f"import sys, gowork.cli.root; print([name for name in sys.modules if name.startswith({packages})])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"

    @pytest.mark.parametrize("command", ["leader", "worker", "plugins", "store show", "store detach"])
    def test_a_command_whose_package_is_missing_prints_its_pip_line(
        self, invoke, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        def version(package: str) -> str:
            raise PackageNotFoundError(package)

        monkeypatch.setattr(metadata, "entry_points", lambda group: [])
        monkeypatch.setattr(group, "version", version)
        result = invoke([*command.split(), "--any", "thing"])
        assert result.exit_code == 1
        assert "python3 -m pip install --upgrade ./packages/gowork-" in result.stderr
        assert "Needs gowork-" in invoke(["--help"]).stdout

    def test_a_command_whose_package_is_too_old_says_so(self, invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metadata, "entry_points", lambda group: [])
        monkeypatch.setattr(group, "version", lambda package: "0.0.1")
        assert "pip install --upgrade ./packages/gowork-worker" in invoke(["plugins"]).stderr

    def test_other_packages_contribute_commands(self, invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = EntryPoint("extra", f"{__name__}:extra", group.ENTRY_POINT_GROUP)
        monkeypatch.setattr(EntryPoint, "load", lambda self: extra)
        monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])
        assert invoke(["extra"]).stdout == "extra speaks\n"
        assert "An extra command." in invoke(["--help"]).stdout

    @pytest.mark.parametrize("value", ["no.such.module:command", "json:dumps"])
    def test_a_contributed_command_that_is_broken_is_named_and_hides_no_other(
        self, invoke, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        entry = EntryPoint("broken", value, group.ENTRY_POINT_GROUP)
        monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])
        result = invoke(["broken"])
        assert result.exit_code == 1
        assert value in result.stderr
        assert "completion" in invoke(["--help"]).stdout

    @pytest.mark.parametrize(
        "source", ["import sys; sys.exit('no licence')", "class Odd(BaseException): pass\nraise Odd('no licence')"]
    )
    def test_a_contributed_command_that_exits_when_it_is_imported_ends_no_help(
        self, invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
    ) -> None:
        contribute(tmp_path, monkeypatch, "rude", source)
        listed = invoke(["--help"])
        assert listed.exit_code == 0
        assert "no licence" in " ".join(listed.stdout.split())
        assert "completion" in listed.stdout
        called = invoke(["rude"])
        assert called.exit_code == 1
        assert "the command 'rude' of rude 1.0 can't be loaded" in called.stderr

    def test_two_distributions_that_contribute_one_command_are_both_named(
        self, invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        contribute(tmp_path, monkeypatch, "aaa", "", command="extra")
        contribute(tmp_path, monkeypatch, "bbb", "", command="extra")
        called = invoke(["extra"])
        assert called.exit_code == 1
        assert "contributed by aaa 1.0 and bbb 1.0" in called.stderr

    def test_a_stranger_hides_no_command_of_gowork_itself(
        self, invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        contribute(tmp_path, monkeypatch, "aaa", "import sys; sys.exit(9)", command="plugins")
        assert "List the plugins" in invoke(["plugins", "--help"]).stdout

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion_prints_a_script_for_the_shell(self, invoke, shell: str) -> None:
        assert "_GOWORK_COMPLETE" in invoke(["completion", shell]).stdout

    @pytest.mark.parametrize(
        "arguments",
        [
            ["show", "a\udcff"],
            ["add", "a\udcff", "x"],
            ["add", "x", "--handler", "a\udcff"],
            ["tasks", "--queue", "a\udcff"],
            ["tasks", "--label", "a\udcff=1"],
            ["drain", "a\udcff"],
            ["purge", "a\udcff", "--yes"],
        ],
    )
    def test_words_that_are_no_text_are_wrong_usage(self, invoke, free_address: str, arguments: list[str]) -> None:
        result = invoke(["--leader", free_address, *arguments])
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert "is not UTF-8 text, from character" in line

    def test_a_number_that_no_field_holds_is_wrong_usage(self, invoke) -> None:
        result = invoke(["queues", "set", "q", "--weight", "99999999999"])
        assert result.exit_code == 2
        assert "--weight" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "variables", "words"),
        [
            (["members"], {"GOWORK_LEADER": "nonsense"}, "gowork: GOWORK_LEADER: address 'nonsense' is not HOST:PORT"),
            (["members", "--leader", "odd"], {"GOWORK_LEADER": "x:1"}, "gowork: --leader: address 'odd' is not"),
        ],
    )
    def test_what_gave_an_address_of_another_form_is_named(
        self, arguments: list[str], variables: dict[str, str], words: str
    ) -> None:
        result = CliRunner(env=variables).invoke(cli, arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(words)

    def test_a_leader_that_answered_is_not_said_to_be_away(self, invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        def members(self: Client) -> None:
            error = LeaderUnreachable("the leader at a:1 can't serve now: it stops")
            error.address, error.answered = "a:1", True
            raise error

        monkeypatch.setattr(Client, "members", members)
        result = invoke(["members"])
        assert (result.exit_code, result.stderr) == (3, "gowork: the leader at a:1 can't serve now: it stops\n")

    def test_the_environment_chooses_the_form(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result = CliRunner(env={"GOWORK_OUTPUT": "yaml"}).invoke(cli, ["members"])
        assert result.exit_code == 2
        assert "none of table, json and jsonl" in result.stderr


class TestParameters:
    @pytest.mark.parametrize(
        ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("90s", 90), ("1h30m", 5400), ("2d", 172800), ("250ms", 0.25)]
    )
    def test_durations(self, text: str, seconds: float) -> None:
        assert duration_s(text) == seconds

    @pytest.mark.parametrize("text", ["", "s", "-1", "1 week", "1h30", "1y", "nan", "1e3"])
    def test_what_is_no_duration_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a duration"):
            duration_s(text)

    @pytest.mark.parametrize("text", ["9" * 400, "36501d", "9" * 400 + "d"])
    def test_a_duration_without_a_bound_is_refused(self, text: str) -> None:
        assert duration_s("36500d") == 36_500 * 86_400
        with pytest.raises(ValueError, match="is longer than 36500 days"):
            duration_s(text)

    def test_an_interval_that_is_no_number_is_refused(self, invoke) -> None:
        assert invoke(["top", "--interval", "nan"]).exit_code == 2

    def test_moments(self) -> None:
        assert moment("2026-12-24T18:00:00+01:00") == datetime(2026, 12, 24, 17, tzinfo=UTC)
        assert moment("2026-12-24T18:00").tzinfo is not None
        with pytest.raises(ValueError, match="is not a time"):
            moment("tomorrow")


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            (0, "0 ms"),
            (0.5, "500 ms"),
            (1.25, "1.2 s"),
            (42.4, "42 s"),
            (61, "1 m 01 s"),
            (7380, "2 h 03 m"),
            (200000, "2 d 07 h"),
        ],
    )
    def test_spans(self, seconds: float, words: str) -> None:
        assert span(seconds) == span(timedelta(seconds=seconds)) == words

    def test_the_future_is_not_ago(self) -> None:
        now = datetime.now(UTC)
        assert ago(now - timedelta(hours=1)).endswith(" ago")
        assert ago(now + timedelta(hours=1)).startswith("in ")
        assert ago(None) == ""


class TestRecords:
    TASK = TaskInfo(id="i", status=TaskStatus.COMPLETED, result='{"a":1}', payload="p", data=b"\x00")

    def test_a_record_has_the_fields_of_its_view(self) -> None:
        basic, result, full = (task_record(self.TASK, view).keys() for view in TaskView)
        assert full > basic
        assert full > result
        assert result - basic == {"result", "result_data"}
        assert full - result - basic == {"payload", "data", "attempts", "traceparent"}

    def test_the_readme_names_every_field(self) -> None:
        readme = (Path(__file__).parents[1] / "README.md").read_text()
        attempt = Attempt(1, "w", AttemptOutcome.LOST, None, None, "", 0)
        failure, progress = Failure(FailureKind.HANDLER, "", "", ""), Progress(0.5, "", None)
        retry, queue = RetryPolicy(), QueueStats("", "", TaskStatus.PENDING, 1)
        task = TaskInfo("i", TaskStatus.ERROR, attempts=(attempt,), failure=failure, progress=progress, retry=retry)
        member = Member("i", "", "", Liveness.LIVE, MemberKind.SESSION, 1, 0, (), {}, "", None, None, ())
        stats = Stats((queue,), (MemberStats(Liveness.LIVE, 1, 1, 1),), "", 1, None)
        explanation = Explanation("i", TaskStatus.PENDING, (WaitReason(WaitCode.DELAYED, "", "", None),), (), 0)
        whole = [task_record(task), member_record(member), stats_record(stats), explanation_record(explanation)]
        empty, counts, flow = (
            Queue("q", False, 1, 0, 0, 0.0, 0, 0, 0, 0),
            QueueCounts(1, 1, 0, 0, (1,)),
            Flow(1, 1, 0, 1, 1),
        )
        active = QueueActivity(empty, 1.0, {WaitCode.NO_SLOT: 1}, counts)
        activity = Activity((active,), 1, counts, (), (task,), stats.members, 1, 0, "", 1, None, 1.0)
        update = activity_record(Frame("a", activity, (member,), (QueueRow(active, flow),), flow, 0.0))
        assert update["queues"][0].pop("reasons") == {"NO_SLOT": 1}
        assert "`reasons`" in readme
        records = [*whole, queue_record(empty), update]
        while records:
            for name, value in records.pop().items():
                assert f"`{name}`" in readme or f"`failure.{name}`" in readme, name
                records += [value] if isinstance(value, dict) else []
                records += value if isinstance(value, list) and value and isinstance(value[0], dict) else []

    def test_results_are_values_and_bytes_base64(self) -> None:
        record = task_record(self.TASK)
        assert (record["result"], record["data"], record["result_data"]) == ({"a": 1}, "AA==", None)

    def test_a_result_that_is_no_json_is_a_string(self) -> None:
        assert task_record(TaskInfo(id="i", status=TaskStatus.COMPLETED, result="done"))["result"] == "done"


@click.command(help="An extra command.")
def extra() -> None:
    click.echo("extra speaks")
