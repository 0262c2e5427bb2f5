"""Both clients change tasks by filter page by page, and go on where a leader went away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from gowork.client import (
    AsyncClient,
    CancelledTasks,
    Client,
    InvalidArgument,
    LeaderTooOld,
    ResourceExhausted,
    RetriedTasks,
)
from gowork.client import _requests as requests
from gowork.client._leader_fields import KNOWN_HERE
from gowork.proto.status import Refusal

UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, "LEADER_LOST", "the leader went away")
FULL = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TASKS", "no more may be pending")


def blocking(address: str, name: str, *arguments: object, **options: object) -> Any:
    with Client(address, timeout=120) as client:
        return getattr(client, name)(*arguments, **options)


def with_asyncio(address: str, name: str, *arguments: object, **options: object) -> Any:
    async def run() -> Any:
        async with AsyncClient(address, timeout=120) as client:
            return await getattr(client, name)(*arguments, **options)

    return asyncio.run(run())


@pytest.fixture(params=[blocking, with_asyncio])
def do(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Makes a call with one client."""
    return request.param


def tokens(scripted: Any, method: str) -> list[str]:
    return [request.page_token for request in scripted.requests[method]]


def test_pages_are_asked_for_until_there_are_no_more(do: Callable[..., Any], scripted: Any) -> None:
    told: list[object] = []
    done = do(scripted.address, "cancel_many", "queue = q", progress=told.append, handler="h")
    assert done == CancelledTasks(cancelled=6, asked=3)
    assert told == [CancelledTasks(2, 1), CancelledTasks(4, 2), CancelledTasks(6, 3)]
    assert tokens(scripted, "CancelTasks") == ["", "second", "third"]
    assert {request.filter for request in scripted.requests["CancelTasks"]} == {'queue = q AND handler = "h"'}
    told.clear()
    done = do(scripted.address, "retry_many", status="CANCELLED", progress=told.append)
    assert done == RetriedTasks(retried=4, left=2)
    assert told == [RetriedTasks(2, 1), RetriedTasks(4, 2)]
    assert {request.filter for request in scripted.requests["RetryTasks"]} == {"status = CANCELLED"}


@pytest.mark.parametrize(("name", "method"), [("cancel_many", "CancelTasks"), ("retry_many", "RetryTasks")])
def test_a_page_whose_leader_went_away_is_asked_for_again(
    do: Callable[..., Any], scripted: Any, name: str, method: str
) -> None:
    scripted.breaks_after(method, UNAVAILABLE)
    do(scripted.address, name, "id = a")
    assert tokens(scripted, method) == ["", "", "second", "third"]


def test_what_was_done_before_a_refusal_was_told(do: Callable[..., Any], scripted: Any) -> None:
    def refuse() -> None:
        raise FULL

    told: list[object] = []
    for fault in (lambda: None, lambda: None, refuse):
        scripted.run_next("RetryTasks", fault)
    with pytest.raises(ResourceExhausted, match="no more may be pending"):
        do(scripted.address, "retry_many", "id = a", progress=told.append)
    assert told == [RetriedTasks(2, 1)]


@pytest.mark.parametrize(("name", "method"), [("cancel_many", "CancelTasks"), ("retry_many", "RetryTasks")])
def test_an_older_leader_is_named_with_what_it_lacks(
    do: Callable[..., Any], scripted: Any, name: str, method: str
) -> None:
    scripted.lacks.add(method)
    with pytest.raises(LeaderTooOld, match=f"it has no {method}"):
        do(scripted.address, name, "id = a")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "priority"),
        ({"priority": "URGENT"}, "priority"),
        ({"queue": 3}, "queue"),
        ({"delay": -1}, "delay"),
        ({"delay": 1, "run_at": 1}, "run_at"),
        ({"expires_in": 1, "expires_at": 1}, "expires_at"),
        ({"expires_in": "soon"}, "expires_in"),
    ],
)
def test_a_change_that_cannot_be_sent_names_the_argument(
    do: Callable[..., Any], scripted: Any, options: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        do(scripted.address, "update", "a", **options)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_an_older_leader_changes_nothing_and_is_named(do: Callable[..., Any], scripted: Any) -> None:
    with pytest.raises(LeaderTooOld, match="it has no UpdateTask"):
        do(scripted.address, "update", "a", queue="q")


def test_zero_is_sent_and_none_is_not() -> None:
    options: dict[str, Any] = dict.fromkeys(("priority", "queue", "run_at", "delay", "expires_at", "expires_in"))
    request = requests.update_request("a", **(options | {"delay": 0, "expires_at": 0, "queue": ""}))
    assert {field.name for field, _ in request.ListFields()} == {"id", "delay_ms", "expires_at_ms", "queue"}


class TestRetryWithSomethingElse:
    def test_a_leader_that_would_drop_it_is_named_and_not_asked(self, do: Callable[..., Any], scripted: Any) -> None:
        scripted.request_fields = sorted(KNOWN_HERE - {"scheduler.v1.RetryTaskRequest.payload"})
        with pytest.raises(LeaderTooOld, match=r"RetryTaskRequest\.payload"):
            do(scripted.address, "retry", "a", payload="x")
        assert "RetryTask" not in scripted.requests
        scripted.lacks.add("GetLeader")
        with pytest.raises(LeaderTooOld, match=r"0\.1\.0.*RetryTaskRequest\.handler"):
            do(scripted.address, "retry", "a", handler="h")
        assert "RetryTask" not in scripted.requests
        # Without either there is nothing that it could drop.
        do(scripted.address, "retry", "a")
        assert [request.id for request in scripted.requests["RetryTask"]] == ["a"]

    def test_only_what_is_given_is_sent(self, do: Callable[..., Any], scripted: Any) -> None:
        do(scripted.address, "retry", "a", payload=None)
        do(scripted.address, "retry", "a", payload="", handler="h")
        do(scripted.address, "retry", "a", payload=b"x")
        do(scripted.address, "retry", "a", handler="h")
        sent = [{field.name: value for field, value in each.ListFields()} for each in scripted.requests["RetryTask"]]
        assert [{name: value for name, value in each.items() if name != "payload_form"} for each in sent] == [
            {"id": "a", "payload": "null"},
            {"id": "a", "payload": "", "handler": "h"},
            {"id": "a", "data": b"x"},
            {"id": "a", "handler": "h"},
        ]

    def test_a_payload_that_cannot_be_sent_is_named(self, do: Callable[..., Any], scripted: Any) -> None:
        for options, field in (({"payload": object()}, "payload"), ({"handler": 3}, "handler")):
            with pytest.raises(InvalidArgument) as caught:
                do(scripted.address, "retry", "a", **options)
            assert [violation.field for violation in caught.value.violations] == [field]
