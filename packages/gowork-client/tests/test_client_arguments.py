"""An argument of a wrong type is refused by its name, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from gowork.client import AsyncClient, Client, InvalidArgument, RetryPolicy

#: Nothing listens there: whatever is sent fails otherwise.
NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"id": 3}, "id"),
        ({"queue": 3}, "queue"),
        ({"concurrency_key": 7}, "concurrency_key"),
        ({"on_lost": "never"}, "on_lost"),
        ({"after": "a"}, "after"),
        ({"after": ["a", 7]}, "after[1]"),
        ({"after": ["a"], "after_rule": "some"}, "after_rule"),
        ({"after": ["a"], "after_rule": "UNSPECIFIED"}, "after_rule"),
        ({"on_lost": "UNSPECIFIED"}, "on_lost"),
        ({"on_lost": 2}, "on_lost"),
        ({"plugin_version": 7}, "plugin_version"),
        ({"unique": 7}, "unique"),
        ({"unique": ""}, "unique"),
        ({"unique": "k", "unique_for": -1}, "unique_for"),
        ({"plugin_version": "1.2"}, "plugin_version"),
        ({"plugin_version": ">=1" * 50}, "plugin_version"),
        ({"labels": {"team": 3}}, "labels['team']"),
        ({"labels": {3: "team"}}, "a key of labels"),
        ({"labels": "team"}, "labels"),
        ({"selector": {"gpu": None}}, "selector['gpu']"),
        ({"priority": 3}, "priority"),
        ({"retry": "often"}, "retry"),
        ({"retry": 10**12}, "retry.max_attempts"),
        ({"retry": RetryPolicy(max_attempts=2.5)}, "retry.max_attempts"),  # type: ignore[arg-type]
        ({"retry": RetryPolicy(factor="2")}, "retry.factor"),  # type: ignore[arg-type]
        ({"retry": RetryPolicy(no_retry="ValueError")}, "retry.no_retry"),  # type: ignore[arg-type]
        ({"retry": RetryPolicy(no_retry=(ValueError,))}, "retry.no_retry"),  # type: ignore[arg-type]
        ({"time_limit": "30s"}, "time_limit"),
        ({"delay": "1h"}, "delay"),
        ({"expires_in": float("nan")}, "expires_in"),
        ({"run_at": "tomorrow"}, "run_at"),
    ],
    ids=str,
)
def test_an_option_of_a_wrong_type_is_refused_by_its_name(options: dict[str, Any], field: str) -> None:
    with Client(NOBODY, patience=0.1) as client, pytest.raises(InvalidArgument) as caught:
        client.schedule("x", **options)
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client: client.get(3), "id"),
        (lambda client: client.cancel(3), "id"),
        (lambda client: client.retry(3), "id"),
        (lambda client: client.explain(3), "id"),
        (lambda client: client.handle(3), "id"),
        (lambda client: client.drain(3), "id"),
        (lambda client: client.drain("w", budget="soon"), "budget"),
        (lambda client: client.pause_queue(3), "name"),
        (lambda client: client.configure_queue("mail", weight="x"), "weight"),
        (lambda client: client.activity(failures="x"), "failures_max"),
        (lambda client: client.wait("report-1"), "tasks"),
        (lambda client: client.wait([3]), "a task to wait for"),
        (lambda client: list(client.as_completed("report-1")), "tasks"),
        (lambda client: list(client.schedule_many("one payload")), "payloads"),
        (lambda client: client.purge("report-1"), "ids"),
        (lambda client: list(client.tasks(queue=3)), "queue"),
        (lambda client: list(client.tasks(labels={"team": 3})), "labels['team']"),
        (lambda client: list(client.tasks(status=3)), "status"),
        (lambda client: list(client.tasks(3)), "filter"),
        (lambda client: list(client.tasks(page_size="all")), "page_size"),
        (lambda client: client.watch(3), "filter"),
        (lambda client: client.watch(token=3), "token"),
        (lambda client: client.wait(["a"], timeout="10s"), "timeout"),
        (lambda client: client.wait(["a"], timeout=math.nan), "timeout"),
        (lambda client: list(client.as_completed(["a"], timeout=math.nan)), "timeout"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused_by_its_name(call: Callable[[Any], object], field: str) -> None:
    with Client(NOBODY, patience=0.1) as client, pytest.raises(InvalidArgument) as caught:
        call(client)
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_one_text_is_no_list_of_tasks_for_the_asyncio_client_either() -> None:
    async with AsyncClient(NOBODY, patience=0.1) as client:
        with pytest.raises(InvalidArgument, match="tasks: is 'report-1'; a list"):
            await client.wait("report-1")
        with pytest.raises(InvalidArgument, match="payloads: is 3; a list"):
            _ = [handle async for handle in client.schedule_many(3)]  # type: ignore[call-overload]
