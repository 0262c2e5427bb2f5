"""The rules of `gowork doctor`, and what it sees of this machine."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from gowork.cli import checkup, own_machine
from gowork.cli.checkup import Checked, State
from gowork.client import LeaderInfo, Liveness, Member, MemberKind, Plugin

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def leader(
    name: str = "one", *, version: str = "0.2.0", leads: bool = False, seen: datetime | None = NOW
) -> LeaderInfo:
    return LeaderInfo(name, "aa", leads, 1, None, 0, 0, 0, "", "", "", version, seen)


def member(
    name: str,
    *,
    version: str = "0.2.0",
    liveness: Liveness = Liveness.LIVE,
    errors: Iterable[str] = (),
    plugins: Iterable[Plugin] = (Plugin("echo", "0.2.0"),),
) -> Member:
    kind = MemberKind.SESSION
    return Member(
        name, "", "alive, idle", liveness, kind, 4, 0, (), {}, version, NOW, NOW, tuple(errors), tuple(plugins)
    )


def states(found: Iterable[Checked]) -> dict[str, State]:
    return {each.subject: each.state for each in found}


def test_a_finding_says_what_to_do_and_nothing_else_does() -> None:
    found = [
        *checkup.versions("0.2.0", "0.2.1", [leader(version="0.9.0")], [member("a"), member("b", version="?")]),
        *checkup.python((3, 20, 0), "win32"),
        checkup.open_files(100),
        *checkup.disk("/d", median_seconds=1.0, free_bytes=0, file_system="nfs"),
        checkup.store_format("f", 99),
        *checkup.workers([member("a"), member("b", liveness=Liveness.LOST)]),
    ]
    assert {each.state for each in found} == {*State}
    assert [each for each in found if bool(each.advice) != (each.state is State.FINDING)] == []
    assert [each for each in found if not each.says] == []


@pytest.mark.parametrize(
    ("one", "other", "fit"),
    [
        ("0.2.0", "0.2.9", True),
        ("0.1.0", "0.2.0", True),
        ("0.2.0", "0.1.0", True),
        ("0.1.0", "0.3.0", False),
        ("1.2.0", "0.2.0", False),
        ("0.2.0.dev1", "0.2.0", True),
        ("", "0.2.0", None),
    ],
)
def test_versions_fit_that_differ_by_one_in_the_second_number(one: str, other: str, fit: bool | None) -> None:
    assert checkup.fits(one, other) is fit


def test_all_parts_are_compared_with_the_leader_that_answered() -> None:
    leaders = [leader("one", leads=True), leader("two", version="0.4.0")]
    found = checkup.versions("0.4.0", "0.2.0", leaders, [member("a", version="0.3.0"), member("b", version="")])
    assert states(found) == {
        "the leader": State.OK,
        "this command": State.FINDING,
        "leader two": State.FINDING,
        "worker a": State.OK,
    }


@pytest.mark.parametrize(("version", "state"), [("1.0", State.SKIPPED), ("v7", State.SKIPPED), ("0.2.9", State.OK)])
def test_a_worker_of_another_language_has_a_version_of_its_own(version: str, state: State) -> None:
    found = checkup.versions("0.2.0", "0.2.0", [], [member("a", version=version, plugins=())])
    assert states(found)["worker a"] is state


@pytest.mark.parametrize(
    ("liveness", "is_compared"),
    [
        (Liveness.LIVE, True),
        (Liveness.DRAINING, True),
        (Liveness.BLOCKED, True),
        (Liveness.LOST, False),
        (Liveness.LEFT, False),
    ],
)
def test_versions_of_connected_workers_alone_are_compared(liveness: Liveness, is_compared: bool) -> None:
    found = states(checkup.versions("0.2.0", "0.2.0", [], [member("a", version="1.0", liveness=liveness)]))
    assert found.get("worker a") is (State.FINDING if is_compared else None)


def test_packages_of_one_environment_have_the_same_first_two_numbers() -> None:
    assert checkup.packages({"gowork-cli": "0.2.0", "gowork-client": "0.2.3"}).state is State.OK
    assert checkup.packages({"gowork-cli": "0.2.0", "gowork-client": "0.1.0"}).state is State.FINDING


@pytest.mark.parametrize(
    ("version", "fit"), [((3, 10, 9), False), ((3, 11, 0), True), ((3, 14, 2), True), ((3, 15), False)]
)
def test_tested_versions_of_python_are_well(version: tuple[int, ...], fit: bool) -> None:
    (found, _) = checkup.python(version, "linux")
    assert found.state is (State.OK if fit else State.FINDING)


@pytest.mark.parametrize(
    ("asked", "answered", "state", "says"),
    [
        (-0.5, 0.5, State.OK, "as the leader's"),
        # The call took long; the leader may have looked at any time.
        (-30.0, 30.0, State.OK, "as the leader's"),
        (0.9, 1.0, State.OK, "0.9 s ahead of the leader"),
        (2.0, 2.1, State.FINDING, "2.0 s ahead of the leader"),
        (-3.1, -3.0, State.FINDING, "3.0 s behind the leader"),
    ],
)
def test_a_clock_is_compared_within_what_the_call_took(asked: float, answered: float, state: State, says: str) -> None:
    now = NOW.timestamp()
    found = checkup.own_clock(NOW, now + asked, now + answered)
    assert (found.state, found.says) == (state, says)


def test_a_leader_that_tells_no_time_is_skipped() -> None:
    assert checkup.own_clock(None, 0.0, 0.0).state is State.SKIPPED


def test_other_leaders_are_seen_by_when_they_registered() -> None:
    leaders = [
        leader("leads", leads=True, seen=None),
        leader("well", seen=NOW - timedelta(seconds=10)),
        leader("gone", seen=NOW - timedelta(seconds=31)),
        leader("ahead", seen=NOW + timedelta(seconds=2)),
    ]
    assert states(checkup.leader_clocks(leaders, NOW)) == {
        "leader well": State.OK,
        "leader gone": State.FINDING,
        "leader ahead": State.FINDING,
    }


def test_workers_in_trouble_are_findings_and_those_that_left_are_none() -> None:
    members = [member(each.value.lower(), liveness=each) for each in Liveness if each is not Liveness.UNSPECIFIED]
    assert states(checkup.workers(members)) == {
        "worker live": State.OK,
        "worker draining": State.OK,
        "worker lost": State.FINDING,
        "worker blocked": State.FINDING,
    }
    (_, broken) = checkup.workers([member("a", errors=["coffee: no module named beans"])])
    assert (broken.check, broken.state, broken.says) == ("plugin", State.FINDING, "coffee: no module named beans")


@pytest.mark.parametrize(("most", "state"), [(None, State.OK), (4_096, State.OK), (4_095, State.FINDING)])
def test_few_open_files_are_a_finding(most: int | None, state: State) -> None:
    assert checkup.open_files(most).state is state


@pytest.mark.parametrize(
    ("median_ms", "free", "kind", "findings"),
    [
        (10, 1 << 30, "ext4", set()),
        (10.1, 1 << 30, "ext4", {"disk speed"}),
        (1, (1 << 30) - 1, "xfs", {"disk room"}),
        (1, 1 << 40, "nfs4", {"file system"}),
        (1, 1 << 40, "tmpfs", {"file system"}),
        (1, 1 << 40, "", set()),
    ],
)
def test_a_slow_full_or_shared_disk_is_a_finding(median_ms: float, free: int, kind: str, findings: set[str]) -> None:
    found = checkup.disk("/d", median_seconds=median_ms / 1000, free_bytes=free, file_system=kind)
    assert {each.check for each in found if each.state is State.FINDING} == findings


@pytest.mark.parametrize(
    ("starts", "ends", "state", "word"),
    [
        (-1, 14, State.OK, "valid until 2026-12-14"),
        (-1, 13.9, State.FINDING, "valid until 2026-12-14"),
        (-9, -1, State.FINDING, "expired at 2026-11-29"),
        (1, 90, State.FINDING, "valid from 2026-12-01"),
    ],
)
def test_a_certificate_that_ends_soon_is_a_finding(starts: float, ends: float, state: State, word: str) -> None:
    found = checkup.validity("a.pem", NOW + timedelta(starts), NOW + timedelta(ends), NOW)
    assert found.state is state
    assert word in found.says


def test_the_format_of_a_store_is_read_from_its_header(tmp_path: Path) -> None:
    def made(name: str, version: int, application: int) -> int:
        with sqlite3.connect(tmp_path / name) as database:
            database.execute(f"PRAGMA user_version = {version}")
            database.execute(f"PRAGMA application_id = {application}")
        database.close()
        return own_machine.store_format(tmp_path / name)

    assert made("ours.db", 3, 0x676F776B) == 3
    assert made("other.db", 3, 1) == 0
    (tmp_path / "text").write_text("no database")
    assert own_machine.store_format(tmp_path / "text") == 0
    os.mkfifo(tmp_path / "pipe")
    assert own_machine.store_format(tmp_path / "pipe") == 0
    assert [checkup.store_format("f", version).state for version in (0, 1, checkup.STORE_FORMAT_MAX)] == [
        State.FINDING,
        State.OK,
        State.OK,
    ]
    assert checkup.store_format("f", checkup.STORE_FORMAT_MAX + 1).state is State.FINDING


def test_the_file_system_is_that_of_the_longest_mount_and_of_the_last(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    place = tmp_path / "data"
    place.mkdir()
    lines = [
        "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw",
        f"2 1 0:5 / {tmp_path} rw - nfs4 server:/ rw",
        f"3 1 0:5 / {tmp_path} rw - xfs /dev/b rw",
        f"4 1 0:5 / {tmp_path}/dat rw - tmpfs none rw",
    ]
    mounts.write_text("\n".join(lines) + "\n")
    assert own_machine.file_system(place, mounts) == "xfs"
    blank = tmp_path / "of data"
    blank.mkdir()
    mounts.write_text("\n".join([lines[0], f"2 1 0:5 / {tmp_path}/of\\040data rw - nfs4 server:/ rw"]) + "\n")
    assert own_machine.file_system(blank, mounts) == "nfs4"
    mounts.write_text(lines[0].replace(" / rw", " /srv/a\\040b rw") + "\n")
    assert own_machine.file_system(place, mounts) == ""
    assert own_machine.file_system(place, tmp_path / "gone") == ""


def test_what_is_written_to_measure_the_disk_is_gone_afterwards(tmp_path: Path) -> None:
    assert 0 < own_machine.sync_seconds(tmp_path) < 60
    assert own_machine.free_bytes(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


def test_each_write_is_waited_for_and_a_slow_disk_ends_the_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def sync(descriptor: int) -> None:
        nonlocal now
        now += 2.0

    monkeypatch.setattr(own_machine, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=lambda: now))
    monkeypatch.setattr(own_machine.os, "fsync", sync)
    assert own_machine.sync_seconds(tmp_path) == 2.0
    assert now == 4.0


def test_the_packages_of_this_environment_are_found() -> None:
    assert {"gowork-cli", "gowork-client", "gowork-base", "gowork-proto"} <= own_machine.installed().keys()
