"""Groups and chains by both clients, with a leader and workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from gowork.client import (
    AsyncClient,
    Client,
    FailedPrecondition,
    InvalidArgument,
    NewTask,
    NotFound,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    TaskStatus,
)
from gowork.testing import Cluster
from gowork.worker import Context, handler
from gowork.worker import NewTask as FollowUp

PATIENCE = 60.0


@handler
def square(number: int) -> int:
    if number == 13:
        raise ValueError("13 is no number")
    return number * number


@handler
def total(ctx: Context, address: str) -> int:
    with Client(address) as client:
        return sum(client.groups.handle(ctx.id).results(int))


@handler
def split(ctx: Context, numbers: list[int]) -> None:
    """Makes a group of its own, with a child for each number."""
    ctx.schedule("", id=f"{ctx.id}/all", group=len(numbers), handler="count-up", after_rule="all_finished")
    ctx.schedule_many(
        [FollowUp(number, id=f"{ctx.id}/all/{place}") for place, number in enumerate(numbers)], handler=square
    )


@handler("count-up")
def count_up(ctx: Context, _: str) -> str:
    # Its own follow-ups are none of its children.
    return ctx.schedule(2, handler=square)


@handler
def after_of(ctx: Context, number: int) -> list[str | int]:
    return [number, *ctx.after]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(handlers=[square, total, split, count_up, after_of]) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address) as client:
        yield client


@pytest.fixture
async def async_client(cluster: Cluster) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(cluster.address) as client:
        yield client


def test_what_comes_after_a_group_reads_the_results_of_its_children_in_order(client: Client, cluster: Cluster) -> None:
    group = client.groups.run(iter(range(12)), handler=square, then=NewTask(cluster.address, handler=total))
    assert group.result(timeout=PATIENCE) == sum(number * number for number in range(12))
    assert list(group.results(int)) == [number * number for number in range(12)]
    state = group.state()
    assert (state.id, state.status, state.expected) == (group.id, TaskStatus.COMPLETED, 12)
    assert (state.children, state.ended, state.completed) == (12, 12, 12)


async def test_the_asyncio_client_does_the_same(async_client: AsyncClient, cluster: Cluster) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(5):
            await asyncio.sleep(0)
            yield number

    then = NewTask(cluster.address, handler=total)
    group = await async_client.groups.run(numbers(), handler=square, then=then)
    assert await group.result(timeout=PATIENCE) == 30
    assert [result async for result in group.results()] == [0, 1, 4, 9, 16]
    assert (await group.state()).completed == 5
    chain = await async_client.chain([1, 2], handler=after_of)
    assert await chain[1].result(timeout=PATIENCE) == [2, chain[0].id]


def test_a_group_without_a_handler_completes_with_its_numbers(client: Client) -> None:
    assert client.groups.run([1, 2], handler=square).result(timeout=PATIENCE) == {
        "children": 2,
        "completed": 2,
        "failed": 0,
        "cancelled": 0,
    }
    assert client.groups.run([], handler=square).result(timeout=PATIENCE)["children"] == 0


def test_children_that_fail_are_told_where_they_stand(client: Client) -> None:
    group = client.groups.run([12, 13, 14], handler=square)
    with pytest.raises(TaskCancelled, match=f"'{group.id}/1' has not"):
        group.result(timeout=PATIENCE)
    with pytest.raises(TaskFailed, match="13 is no number"):
        list(group.results(timeout=PATIENCE))
    first, second, third = group.results(return_exceptions=True, timeout=PATIENCE)
    assert (first, third) == (144, 196)
    assert isinstance(second, TaskFailed)
    assert sorted(handle.id for handle in group.as_completed(PATIENCE)) == [f"{group.id}/{n}" for n in range(3)]
    # It may wait again.
    assert group.id in [each.id for each in client.groups.list()]
    all_ended = client.groups.run([13, 1], handler=square, then=NewTask(after_rule="all_finished"))
    assert all_ended.result(timeout=PATIENCE) == {"children": 2, "completed": 1, "failed": 1, "cancelled": 0}


def test_a_call_that_was_broken_off_is_repeated(client: Client) -> None:
    def broken() -> Iterator[int]:
        yield from (1, 2)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        client.groups.run(broken(), handler=square, id="again")
    assert client.groups.get("again").expected is None
    for _ in range(2):
        group = client.groups.run([1, 2, 3], handler=square, id="again")
        assert list(group.results(timeout=PATIENCE)) == [1, 4, 9]
        assert group.result(timeout=PATIENCE)["children"] == 3
        assert group.state().expected == 3
    assert len(list(client.tasks(id_prefix="again"))) == 4


def test_an_open_group_takes_children_until_it_is_sealed(client: Client) -> None:
    group = client.groups.open(id="open")
    children = [group.add(number, part=str(number), handler=square) for number in (1, 2)]
    assert [child.result(timeout=PATIENCE) for child in children] == [1, 4]
    assert [child.id for child in group.children()] == ["open/1", "open/2"]
    with pytest.raises(TaskNotFinished):
        group.wait(timeout=0.2)
    assert group.seal(2).expected == 2
    assert group.result(timeout=PATIENCE)["completed"] == 2
    # The same seal may be repeated by a client that has not seen the answer.
    assert (group.seal().expected, group.seal(2).expected) == (2, 2)
    with pytest.raises(FailedPrecondition, match="ended with 2 children, and can't have 3"):
        group.seal(3)
    sealed = client.groups.open(id="sealed", children=1)
    sealed.add(1, handler=square, delay=3600)
    with pytest.raises(FailedPrecondition, match="is sealed; children: 1 of 1"):
        sealed.add(2, handler=square)
    with pytest.raises(FailedPrecondition, match="can't have 2"):
        sealed.seal(2)
    done = client.groups.cancel("sealed")
    assert (done.cancelled, done.asked) == (1, 0)
    assert (sealed.state().status, sealed.state().cancelled) == (TaskStatus.CANCELLED, 1)
    # Once more is fine.
    sealed.cancel()


@pytest.mark.parametrize("part", ["", "a/b"])
def test_a_part_that_makes_no_child_is_refused(client: Client, part: str) -> None:
    group = client.groups.handle("open")
    with pytest.raises(InvalidArgument, match="part: "):
        group.add(1, part=part, handler=square)


def test_ids_of_children_are_their_own(client: Client) -> None:
    group = client.groups.run([NewTask(1, id="named/one"), 2], handler=square, id="named")
    assert group.result(timeout=PATIENCE)["completed"] == 2
    assert [child.id for child in group.children()] == ["named/one", "named/1"]
    for id in ("one", "other/one", "named/"):
        with pytest.raises(InvalidArgument, match=r"tasks\[0\].id: "):
            client.groups.run([NewTask(1, id=id)], handler=square, id="named2")
    client.groups.cancel("named2")


def test_what_is_no_group_is_not_found(client: Client) -> None:
    client.schedule(1, handler=square, id="plain").wait(PATIENCE)
    for call in (client.groups.get, client.groups.seal, client.groups.cancel):
        for id in ("plain", "nothing"):
            with pytest.raises(NotFound, match="GROUP_UNKNOWN|group"):
                call(id)


def test_a_handler_schedules_a_group(client: Client) -> None:
    client.schedule([1, 13, 2], handler=split, id="splits").result(timeout=PATIENCE)
    group = client.groups.handle("splits/all")
    follow_up = group.result(timeout=PATIENCE)
    assert follow_up == "splits/all/then/1"
    assert client.handle(follow_up).result(timeout=PATIENCE) == 4
    state = group.state()
    assert (state.completed, state.failed, state.children) == (2, 1, 3)


def test_a_chain_runs_in_order_and_ends_with_the_first_failure(client: Client) -> None:
    chain = client.chain([NewTask(1, id="c1"), NewTask(2), NewTask(3, after=["c1"])], handler=after_of)
    assert [each.result(timeout=PATIENCE) for each in chain] == [[1], [2, "c1"], [3, chain[1].id, "c1"]]
    first, rest = NewTask(4), NewTask(5, id="c5") | NewTask(6)
    piped = client.chain(first | rest, handler=after_of)
    assert [each.result(timeout=PATIENCE) for each in piped] == [[4], [5, piped[0].id], [6, "c5"]]
    assert (first | rest) == (first | NewTask(5, id="c5") | NewTask(6))
    with pytest.raises(TypeError):
        rest | "a payload"  # type: ignore[operator]
    failing = client.chain([1, 13, 2], handler=square)
    with pytest.raises(TaskCancelled, match=failing[1].id):
        failing[2].result(timeout=PATIENCE)
    behind = client.chain([5, 6], handler=after_of, after=[chain[0]])
    assert behind[0].result(timeout=PATIENCE) == [5, "c1"]
    assert client.chain([]) == []


def test_a_group_whose_unique_key_is_taken_is_not_scheduled(client: Client, cluster: Cluster) -> None:
    then = NewTask(cluster.address, handler=total, unique="one-group", run_at=4_000_000_000)
    first = client.groups.run([1, 2], handler=square, then=then)
    second = client.groups.run([3, 4, 5], handler=square, then=then)
    assert (second.id, first.is_new, second.is_new) == (first.id, True, False)
    assert len(list(second.children())) == 2
    first.cancel()


@pytest.mark.parametrize("id", ["a*b", 'a"b', "a\\b", "a%b_", "ü/ö", "a//b", "/", "a/"])
def test_the_id_of_a_group_may_have_any_characters(client: Client, id: str) -> None:
    group = client.groups.run([1, 2], handler=square, id=id)
    assert group.result(timeout=PATIENCE)["completed"] == 2
    assert [child.id for child in group.children()] == [f"{id}/0", f"{id}/1"]
    assert (group.state().completed, client.groups.cancel(id).cancelled) == (2, 0)
