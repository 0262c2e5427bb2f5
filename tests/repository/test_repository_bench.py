"""The benchmarks: `against`, which compares this tree with an earlier version, and `ha`, several leaders with one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from etcd_members import EtcdCluster

pytestmark = pytest.mark.usefixtures("benchmarks")


@pytest.fixture
def against() -> Any:
    return importlib.import_module("against")


@pytest.fixture
def ha() -> Any:
    return importlib.import_module("ha")


def verdict(against: Any, tree: float) -> bool | None:
    earlier = [{"leader": 50.0, "client": 50.0}] * 3
    (verdict,) = (
        measure.met
        for measure in against.compared("threads", "0.1.0", earlier, [{"leader": tree, "client": 50.0}] * 3)
        if measure.target is not None
    )
    return verdict


def test_the_sum_of_processor_times_may_rise_by_three_in_a_hundred(against: Any) -> None:
    assert verdict(against, 52.9) is True
    assert verdict(against, 53.1) is False


def test_one_slow_pair_is_no_verdict(against: Any) -> None:
    earlier, tree = [{"leader": 50.0}] * 3, [{"leader": 51.0}, {"leader": 90.0}, {"leader": 50.0}]
    assert all(measure.met is not False for measure in against.compared("threads", "0.1.0", earlier, tree))


def test_the_wheels_of_an_earlier_version_are_at_hand(against: Any) -> None:
    assert "0.1.0" in against.versions()


def verdicts(ha: Any, **micros: float) -> Mapping[str, bool]:
    """What becomes of the targets when one leader alone takes 50 µs and 1,000 tasks/s, and three take this."""
    rate, times = micros.pop("rate", 500.0), micros.pop("times", 1.5)
    alone = ha.Turn(1000.0, 10, {"leader": 50.0, "client": 9.0}, 2.0, 1.0)
    three = {"leader": 50.0, "follower": 20.0, "etcd": 30.0, "client": 9.0, **micros}
    several = ha.Turn(rate, 20, three, 3.0 * times, 3.0, 9000.0)
    measures = ha.compared("ha", [alone] * 3, [several] * 3)
    return {measure.name: measure.met for measure in measures if measure.met is not None}


def test_three_leaders_are_asked_four_things(ha: Any) -> None:
    assert list(verdicts(ha).values()) == [True] * 4


@pytest.mark.parametrize(
    ("what", "good", "bad", "name"),
    [
        ("leader", 59.9, 60.1, "leader that leads: of leader alone"),
        ("follower", 24.9, 25.1, "leader that follows: of leader alone"),
        ("rate", 401.0, 399.0, "3 leaders: of leader alone"),
        ("times", 1.99, 2.01, "3 leaders: p50 / raw p50"),
    ],
)
def test_each_target_of_three_leaders_is_held_alone(ha: Any, what: str, good: float, bad: float, name: str) -> None:
    assert verdicts(ha, **{what: good})[name] is True
    of = verdicts(ha, **{what: bad})
    assert [which for which, met in of.items() if not met] == [name]


def test_one_slow_fail_over_is_the_worst_and_not_the_median() -> None:
    failover = importlib.import_module("failover")
    took = [failover.Took(0.2, 0.3, 0.4), failover.Took(0.2, 0.3, 4.5), failover.Took(0.2, 0.3, 0.5)]
    met = {measure.name: measure.met for measure in failover.measured("fail-over", took) if measure.met is not None}
    assert met == {"kill → a new task has completed": True, "kill → a new task has completed, worst": False}


@pytest.mark.parametrize(
    "arguments", [["--pending", "5"], ["ha", "throughput", "--pending", "5"], ["ha", "--running", "5"]]
)
def test_only_fail_overs_have_tasks_that_wait_or_run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("run").main()
    assert ended.value.code == 2
    assert "--pending" in capsys.readouterr().err


@pytest.mark.tool("etcd")
def test_a_raw_log_appends_what_was_written_last(tmp_path: Path) -> None:
    raw_log = importlib.import_module("raw_log")
    with EtcdCluster(tmp_path) as etcd:
        address = etcd.members[0].address
        with raw_log.RawLog(address, "first") as first:
            assert first.seconds_each([b"1", b"2"]) > 0
            with raw_log.RawLog(address, first.keys) as second:
                assert second.newest(9) == [b"2", b"1"]
                second.sync()
                assert first.newest(9) == []
            with raw_log.RawLog(address, second.keys) as third:
                assert third.newest(1)[0] in (b"1", b"2")


def test_a_leader_that_is_measured_is_started_again_where_it_was(tmp_path: Path) -> None:
    module = importlib.import_module("processes")
    with module.Processes(tmp_path) as processes:
        measured = module.Cluster(processes)
        before = measured.addresses
        processes.stop("leader")
        measured.start_leader()
        assert measured.addresses == before
        assert before.keys() == {"cluster", "scheduler", "http"}
