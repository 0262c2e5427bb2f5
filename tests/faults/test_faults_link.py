"""A link that is cut silently: no connection ends, but no bytes arrive, both ways or one way."""

from __future__ import annotations

import time

import pytest
from fault_cluster import Cluster, until
from fault_link import link_to

from gowork.client import AttemptOutcome, Liveness, TaskStatus

#: The leader's usual lease. Nothing but the lease notices a link that is cut, because TCP takes minutes.
LEASE_SECONDS = 10.0
#: How much longer a busy machine may take.
LEEWAY_SECONDS = 20.0


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(("up", "down"), id="both ways", marks=pytest.mark.longer),
        pytest.param(("up",), id="from it", marks=pytest.mark.longer),
        pytest.param(("down",), id="to it", marks=pytest.mark.longer),
    ],
)
def test_tasks_of_a_worker_that_is_cut_off_run_elsewhere_and_it_knows(cluster: Cluster, ways: tuple[str, ...]) -> None:
    with link_to(cluster.leader_address) as link, cluster.client() as client:
        cluster.start_worker("w1", "--runners", "1", leader=link.address)
        client.schedule(id="watchful", handler="watchful")
        client.schedule(id="leashed", handler="leashed")
        assert {cluster.news("entered").id for _ in range(2)} == {"watchful", "leashed"}
        cluster.start_worker("w2", "--runners", "1")
        link.cut(*ways)
        cut = time.monotonic()
        at: dict[tuple[str, str, int], float] = {}
        while len(at) < 6:
            news = cluster.any_news()
            at[news.event, news.id, news.attempt] = time.monotonic() - cut
        print({" ".join(map(str, key)): round(seconds, 1) for key, seconds in at.items()})
        for id in ("watchful", "leashed"):
            assert at["entered", id, 2] < LEASE_SECONDS + LEEWAY_SECONDS
            # The worker finds out by itself, because nobody can tell it.
            assert at["left", id, 1] < LEASE_SECONDS + LEEWAY_SECONDS
            task = client.wait([id], timeout=120)[0]
            assert (task.status, task.worker) == (TaskStatus.COMPLETED, "w2")
            attempts = client.get(id).attempts
            assert [attempt.outcome for attempt in attempts] == [AttemptOutcome.LOST, AttemptOutcome.COMPLETED]
        link.heal()
        until(lambda: {member.id: member.liveness for member in client.members()}["w1"] is Liveness.LIVE)


def test_a_connection_that_is_stuck_is_replaced_before_the_lease_ends(cluster: Cluster) -> None:
    with link_to(cluster.leader_address) as link, cluster.client() as client:
        cluster.start_worker("w", "--runners", "1", leader=link.address)
        cluster.gate("a")
        client.schedule(id="a", handler="gated")
        cluster.news("entered")
        link.cut_what_is_there()
        # The leader hears the worker on another connection than before.
        before = client.members()[0].address
        until(lambda: client.members()[0].address != before)
        cluster.release("a")
        cluster.news("left")
        task = client.wait(["a"], timeout=120)[0]
        assert (task.status, len(client.get("a").attempts)) == (TaskStatus.COMPLETED, 1)
