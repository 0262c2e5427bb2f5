"""Schemas from the worker to the client: listed, and payloads checked by them before they are sent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

from gowork.client import Client, InvalidArgument, NewTask
from gowork.testing import AsyncCluster, Cluster
from gowork.worker import Context, handler

#: Seconds for what comes within milliseconds on a machine that is not busy.
SOON = 60.0


@dataclass
class Job:
    name: str
    width: int = 1


class Order(pydantic.BaseModel):
    number: int = pydantic.Field(alias="orderNumber")


@handler
def resize(ctx: Context, job: Job) -> list[int]:
    """Makes an image smaller."""
    return [job.width]


@handler
def ship(order: Order) -> Order:
    return order


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(workers=2, handlers=[resize, ship]) as cluster:
        yield cluster


def test_a_handler_is_listed_with_its_schema_and_all_its_workers(cluster: Cluster) -> None:
    (found,) = cluster.client.handlers("resize")
    (version,) = found.versions
    assert (version.doc, version.workers) == ("Makes an image smaller.", 2)
    assert list(version.worker_names) == cluster.workers
    assert version.payload_schema is not None
    assert version.result_schema == {"type": "array", "items": {"type": "integer"}}
    assert {"echo", "resize", "ship"} <= {each.name for each in cluster.client.handlers()}


def test_a_client_that_checks_names_the_wrong_field_and_sends_nothing(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(cluster.client.address, check_payloads=True) as client:
        for send in (
            lambda: client.schedule({"name": "a", "width": "x"}, handler="resize"),
            lambda: list(client.schedule_many([NewTask({"name": "a", "width": "x"}, handler=resize)])),
        ):
            with pytest.raises(InvalidArgument, match="payload.width: 'x' is not of type 'integer'"):
                send()
        assert not list(client.tasks())
        assert client.schedule(Job("a", 2), handler=resize).result(timeout=SOON) == [2]
        assert client.schedule(Order(orderNumber=3), handler=ship).result(timeout=SOON) == Order(orderNumber=3)
        with caplog.at_level(logging.WARNING, "gowork.client"):
            client.schedule("x", handler="resise")
            list(client.schedule_many([NewTask(Job("a"), plugin_version=">=1")], handler=resize))
    assert [vars(record)["reason"] for record in caplog.records if record.name == "gowork.client"] == [
        "no worker has the handler 'resise' now; did you mean 'resize'?",
        "no worker has the handler 'resize' in a version within >=1 now; there is one without a version",
    ]


def test_results_of_many_tasks_have_the_types_of_their_functions(cluster: Cluster) -> None:
    items: list[Any] = [
        Order(orderNumber=1),
        NewTask({"name": "a", "width": 7}, handler=resize),
        NewTask({"orderNumber": 2}, handler="ship"),
        NewTask(Order(orderNumber=3)),
    ]
    handles = list(cluster.client.schedule_many(items, handler=ship))
    results = [handle.result(timeout=SOON) for handle in handles]
    # Of a handler that is named, the type is not known.
    assert results == [Order(orderNumber=1), [7], {"number": 2}, Order(orderNumber=3)]


def test_a_payload_can_be_checked_alone(cluster: Cluster) -> None:
    with pytest.raises(InvalidArgument, match="is 'nmae' meant to be 'name'"):
        cluster.client.check_payload({"nmae": "a"}, handler=resize)
    assert cluster.client.check_payload({"name": "a"}, handler=resize) == ""
    warning = cluster.client.check_payload({"name": "a"}, handler=resize, plugin_version=">=1")
    assert warning == "no worker has the handler 'resize' in a version within >=1 now; there is one without a version"
    with pytest.raises(InvalidArgument, match="plugin_version: is '1'"):
        cluster.client.check_payload({"name": "a"}, handler=resize, plugin_version="1")
    assert "did you mean 'resize'" in cluster.client.check_payload("", handler="resise")


async def test_an_asyncio_client_checks_too() -> None:
    async with AsyncCluster(handlers=[resize]) as cluster:
        assert [each.name for each in await cluster.client.handlers("resize")] == ["resize"]
        with pytest.raises(InvalidArgument, match="payload"):
            await cluster.client.check_payload([], handler=resize)
        # No version that may run it is there to say what it takes.
        warning = await cluster.client.check_payload([], handler=resize, plugin_version=">=1")
        assert "in a version within >=1 now" in warning
