"""A handler that blocks its runner costs its worker neither session nor lease."""

from __future__ import annotations

import json
import urllib.request

from click.testing import CliRunner
from fault_cluster import Cluster, until

from gowork.cli.root import cli
from gowork.client import AttemptOutcome, Client, Liveness, TaskStatus


def shown(cluster: Cluster) -> str:
    """The liveness of the only member, as `gowork members` shows it."""
    result = CliRunner().invoke(cli, ["--leader", cluster.address, "members", "-o", "json"])
    (member,) = json.loads(result.stdout)
    assert isinstance(member["liveness"], str)
    return member["liveness"]


def measured(cluster: Cluster, state: str) -> float:
    """The number of members in this state, as /metrics shows it."""
    with urllib.request.urlopen(f"http://{cluster.http_address}/metrics", timeout=120) as page:
        lines = page.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f'gowork_members{{state="{state}"}}'))


def liveness(client: Client) -> Liveness:
    return client.members()[0].liveness


def test_a_worker_whose_runner_is_blocked_keeps_its_session_and_its_task(cluster: Cluster) -> None:
    cluster.kill_leader()
    # A runner counts as blocked after 3 s without a sign, which is longer than this lease.
    cluster.start_leader(lease=2.5)
    cluster.start_worker("w", "--runners", "1")
    with cluster.client() as client:
        before = client.members()[0]
        cluster.gate("a")
        client.schedule(id="a", handler="blocking")
        cluster.news("entered")
        fence = client.get("a").fence
        until(lambda: liveness(client) is Liveness.BLOCKED)
        assert shown(cluster) == "BLOCKED"
        assert (measured(cluster, "blocked"), measured(cluster, "live")) == (1, 0)
        task = client.get("a")
        assert (task.status, task.fence) == (TaskStatus.RUNNING, fence)
        cluster.release("a")
        until(lambda: liveness(client) is Liveness.LIVE)
        assert shown(cluster) == "LIVE"
        assert (measured(cluster, "blocked"), measured(cluster, "live")) == (0, 1)
        client.wait(["a"], timeout=120)
        assert [attempt.outcome for attempt in client.get("a").attempts] == [AttemptOutcome.COMPLETED]
        after = client.members()[0]
        # One session all the time: a new one would come from another port.
        assert (after.joined_at, after.address) == (before.joined_at, before.address)
