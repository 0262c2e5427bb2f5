"""Three leaders that share a log in etcd, each a process, as an operator sees them through the command line."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from clusters import RunningLeader, kill, sharing_leaders, start_worker, stopped_cleanly
from etcd_members import EtcdCluster

from gowork.client import Client, Leaders

pytestmark = [pytest.mark.tool("etcd"), pytest.mark.timeout(300)]
NAMES = ("one", "two", "three")


class Trio:
    """The leaders by their names, and a client that knows all their addresses."""

    def __init__(self, leaders: dict[str, RunningLeader], client: Client) -> None:
        self.leaders = leaders
        self.client = client

    def gowork(self, by: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command line against one leader."""
        command = ["gowork", "--leader", self.leaders[by].scheduler, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def told(self, by: str, *arguments: str) -> Any:
        """What a command says in JSON."""
        done = self.gowork(by, *arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def registered(self) -> Leaders:
        """Waits until all leaders are registered, and one leads."""
        while True:
            found = self.client.leaders()
            if (
                found.leading is not None
                and len(found.leaders) == len(NAMES)
                and all(leader.seen_at is not None for leader in found.leaders)
            ):
                return found


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    with ExitStack() as stack:
        etcd = stack.enter_context(EtcdCluster(tmp_path))
        leaders = stack.enter_context(sharing_leaders(tmp_path, etcd.url("gowork"), NAMES))
        addresses = ",".join(leader.scheduler for leader in leaders.values())
        yield Trio(leaders, stack.enter_context(Client(addresses, timeout=120)))


@pytest.mark.longer
def test_an_operator_sees_all_leaders_through_any_and_has_them_hand_over(trio: Trio, tmp_path: Path) -> None:
    before = trio.registered()
    assert before.leading is not None
    first = before.leading.name
    followers = [name for name in NAMES if name != first]
    with stopped_cleanly(start_worker(tmp_path, trio.leaders[followers[0]])):
        assert trio.client.schedule("p").result(timeout=120) is not None
        trio.client.schedule("p", id="waits", handler="nobody-has-it")
        for name in NAMES:
            told = trio.told(name, "leaders")
            assert [leader["name"] for leader in told["leaders"] if leader["leads"]] == [first]
            assert sorted(leader["name"] for leader in told["leaders"]) == sorted(NAMES)
            assert [reason["code"] for reason in trio.told(name, "why", "waits")["reasons"]] == ["NO_HANDLER"]
            assert trio.told(name, "stats")["term"] == before.leading.term
            assert trio.told(name, "top", "--count", "1")["members"]
        handed = trio.told(followers[0], "leaders", "step-down", "--yes")
        assert handed["name"] in followers
        assert handed["term"] > before.leading.term
        assert trio.client.schedule("p").result(timeout=120) is not None
    assert f"leads now, in term {handed['term'] + 1}" in trio.gowork(first, "leaders", "step-down", "--yes").stdout
    for leader in trio.leaders.values():
        with stopped_cleanly(leader.process):
            pass


def test_a_follower_says_in_its_metrics_that_it_follows(trio: Trio) -> None:
    leading = trio.registered().leading
    assert leading is not None
    pages = {}
    for name, leader in trio.leaders.items():
        with urllib.request.urlopen(f"http://{leader.http}/metrics", timeout=60) as page:
            pages[name] = page.read().decode()
    for name, page in pages.items():
        assert f"gowork_leader_is_leader {float(name == leading.name)}" in page
        assert f"gowork_leader_term {float(leading.term)}" in page
        assert "gowork_log_lag_entries 0.0" in page
        assert "gowork_log_full 0.0" in page


def test_a_leader_that_was_killed_stays_registered_and_can_not_be_removed_at_once(trio: Trio) -> None:
    leading = trio.registered().leading
    assert leading is not None
    gone = next(name for name in NAMES if name != leading.name)
    kill(trio.leaders[gone].process)
    refused = trio.gowork(leading.name, "leaders", "remove", gone)
    assert refused.returncode == 1
    assert f"{gone} was seen" in refused.stderr
    assert gone in trio.gowork(leading.name, "leaders").stdout
