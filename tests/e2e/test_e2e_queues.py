"""Workers that name queues, beside one that names none, as real processes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from clusters import RunningLeader, start_worker, stopped_cleanly

from gowork.client import Client, WaitCode

MODULE = """
from gowork.worker import Context, handler


@handler
def who(ctx: Context) -> str:
    return ctx.worker
"""


def test_tasks_go_to_workers_that_take_their_queue(tmp_path: Path, leader: RunningLeader) -> None:
    (tmp_path / "reserved.py").write_text(MODULE)
    with ExitStack() as stack, Client(leader.scheduler) as client:

        def started(name: str, *options: str) -> None:
            worker = start_worker(tmp_path, leader, "--name", name, "--import", "reserved", "--runners=1", *options)
            stack.enter_context(stopped_cleanly(worker))

        started("images", "--queue", "images", "--queue", "thumbnails", "--slots=1")
        waiting = client.schedule(None, handler="who")
        many = list(client.schedule_many([None] * 20, handler="who", queue="images"))
        many += client.schedule_many([None] * 20, handler="who", queue="thumbnails")
        assert {task.result for task in client.wait(many, timeout=120)} == {'"images"'}
        (reason,) = client.explain(waiting.id).reasons
        assert (reason.code, reason.advice) == (
            WaitCode.QUEUE_NOT_TAKEN,
            "start a worker that does: `--queue default`",
        )
        started("rest", "--slots=20")
        assert waiting.result(timeout=120) == "rest"
        assert {member.id: member.queues for member in client.members()} == {
            "images": ("images", "thumbnails"),
            "rest": (),
        }
