"""What a payload or a result was before it was sent: kept with the task, no part of what makes two submits the same."""

from __future__ import annotations

from pathlib import Path

from leader_serving import ServedLeader, refused, serving

from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

TEXT, DATA = pb.PAYLOAD_FORM_TEXT, pb.PAYLOAD_FORM_DATA
TRACED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_form_reaches_the_worker_with_or_without_a_trace(leader: ServedLeader) -> None:
    await leader.submit("a", payload="5", payload_form=TEXT)
    await leader.submit("b", payload="5", payload_form=TEXT, traceparent=TRACED)
    await leader.submit("c", payload_form=DATA)
    await leader.submit("d", payload="5")
    async with leader.worker() as session:
        granted = [pb.Task.FromString(grant.task) for grant in await session.grants(4)]
    assert [(task.id, task.payload_form, task.traceparent) for task in granted] == [
        ("a", TEXT, ""),
        ("b", TEXT, TRACED),
        ("c", DATA, ""),
        ("d", 0, ""),
    ]


async def test_an_older_client_that_names_no_form_repeats_the_same_task(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("a", payload="5", payload_form=TEXT)
        assert (await leader.submit("a", payload="5")).existing == 1
        await leader.submit("b", payload="5", traceparent=TRACED)
        assert (await leader.submit("b", payload="5", payload_form=TEXT)).existing == 1
    async with serving(tmp_path) as leader:
        assert (await leader.submit("a", payload="5")).existing == 1
        assert (await leader.submit("b", payload="5", payload_form=TEXT)).existing == 1
        assert [(await leader.get(id)).payload_form for id in "ab"] == [TEXT, 0]
        await refused(leader.submit("a", payload="6", payload_form=TEXT))


async def test_empty_bytes_as_a_result_are_told_from_none(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("a", "b", "c")
        async with leader.worker() as session:
            first, second, third = await session.grants(3)
            await session.report(first, result_is_empty_data=True)
            await session.report(second)
            # One that contradicts itself is taken by what it returned.
            await session.report(third, result="1", result_is_empty_data=True)
            finished = await leader.finished("a", "b", "c")
        assert [finished[id].result_is_empty_data for id in "abc"] == [True, False, False]
    async with serving(tmp_path) as leader:
        kept = {task.id: task.result_is_empty_data for task in await leader.list(view=pb.TASK_VIEW_FULL)}
        assert kept == {"a": True, "b": False, "c": False}
