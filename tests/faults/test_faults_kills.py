"""When a process is killed, all that it had started ends before any of its tasks runs again."""

from __future__ import annotations

import psutil
import pytest
from fault_cluster import Cluster, News, kill, still_running

from gowork.client import AttemptOutcome, Client, TaskStatus

#: How long to wait for processes that only gowork ends, in seconds.
END_SECONDS = 30.0
#: How long a killed process may take to be gone, in seconds: it needs a processor once more, which may be busy.
GONE_SECONDS = 0.5
#: {victim: words in the reason for which the leader runs the tasks again}; the end of the lease would come later.
NOTICED = {"supervisor": "its stream broke", "runner": "runner"}

#: A command that tells the test that it runs, and ignores every signal that it can; so does its child.
STUBBORN = "trap '' TERM INT HUP; echo entered {id} 0 $PPID $$ > news; sleep 1000 & while :; do wait; done"


def schedule_stubborn(client: Client, id: str) -> None:
    client.schedule({"command": STUBBORN.format(id=id), "shell": True}, id=id, handler="shell")


def group_of(news: News) -> list[psutil.Process]:
    """The command that a handler runs, and its children."""
    command = psutil.Process(news.child)
    return [command, *command.children(recursive=True)]


@pytest.mark.parametrize("victim", ["supervisor", pytest.param("runner", marks=pytest.mark.longer)])
def test_commands_that_heed_no_signal_have_ended_before_their_tasks_are_run_again(
    cluster: Cluster, victim: str
) -> None:
    cluster.start_worker("w1", "--runners", "1")
    ids = ["a", "b"]
    with cluster.client() as client:
        for id in ids:
            schedule_stubborn(client, id)
        entered = {news.id: news for news in (cluster.news("entered") for _ in ids)}
        if victim == "supervisor":
            cluster.start_worker("w2", "--runners", "1")
        below = cluster.processes("w1")
        groups = [process for news in entered.values() for process in group_of(news)]
        if victim == "supervisor":
            cluster.kill_worker("w1")
        else:
            kill(entered["a"].runner)
            below = []
        again = cluster.news("entered")
        assert still_running((*below, *groups), GONE_SECONDS) == []
        assert cluster.news("entered").id != again.id
        for id in ids:
            client.cancel(id)
        for task in client.wait(ids, timeout=120):
            assert task.status is TaskStatus.CANCELLED
            attempts = client.get(task.id).attempts
            assert [attempt.outcome for attempt in attempts] == [AttemptOutcome.LOST, AttemptOutcome.CANCELLED]
            assert NOTICED[victim] in attempts[0].reason


@pytest.mark.parametrize("victim", ["supervisor", "runner"])
def test_commands_end_soon_when_nobody_can_run_their_tasks_again(cluster: Cluster, victim: str) -> None:
    cluster.start_worker("w1", "--runners", "1")
    with cluster.client() as client:
        schedule_stubborn(client, "a")
        news = cluster.news("entered")
        group = group_of(news)
        # A cancelled task is not started again, so nothing else ends its processes.
        client.cancel("a")
        if victim == "supervisor":
            cluster.kill_worker("w1")
        else:
            kill(news.runner)
        assert still_running(group, END_SECONDS) == []
        assert client.wait(["a"], timeout=120)[0].status is TaskStatus.CANCELLED
