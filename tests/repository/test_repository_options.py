"""Handlers schedule with the same words as clients: the options of both are compared."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_args

import pytest

from gowork import client, worker
from gowork.client import Client
from gowork.worker import Context

#: {option that handlers have and clients have not: why}
HANDLERS_ALONE = {"max_attempts": "handlers had it before `retry`, and it means the same as a number there"}
#: {option that clients have and handlers have not: why}
CLIENTS_ALONE: dict[str, str] = {}
#: {name: the same in both}
SHAPES = ("NewTask", "RetryPolicy")


def options_of(options: Any) -> set[str]:
    return set(options.__annotations__)


def test_handlers_take_every_option_that_clients_take() -> None:
    handlers, clients = options_of(worker.TaskOptions), options_of(client.TaskOptions)
    assert handlers - clients == HANDLERS_ALONE.keys()
    assert clients - handlers == CLIENTS_ALONE.keys()


@pytest.mark.parametrize("name", ["schedule", "schedule_many"])
def test_the_calls_have_the_same_parameters(name: str) -> None:
    of_client, of_context = (
        [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(vars(kind)[name]).parameters.values()
        ]
        for kind in (next(each for each in Client.__mro__ if name in vars(each)), Context)
    )
    assert of_context == of_client


@pytest.mark.parametrize("name", SHAPES)
def test_values_that_options_take_have_the_same_fields(name: str) -> None:
    of_client, of_worker = (
        [(field.name, field.default) for field in dataclasses.fields(getattr(package, name))]
        for package in (client, worker)
    )
    assert of_worker == of_client


@pytest.mark.parametrize("name", ["PriorityName", "OnLostName"])
def test_words_are_the_same(name: str) -> None:
    assert get_args(getattr(worker, name)) == get_args(getattr(client, name))


def test_what_programs_that_do_both_hand_over_is_understood() -> None:
    ctx = Context(id="parent")
    task = client.NewTask("b", queue="slow", retry=client.RetryPolicy(max_attempts=3, no_retry=("KeyError",)))
    # The worker knows no types of the client's.
    options: Any = {"priority": client.Priority.HIGH, "on_lost": client.OnLost.FAIL}
    ctx.schedule_many(["a", task], **options)
    first, second = ctx.follow_ups
    assert [follow_up.priority for follow_up in ctx.follow_ups] == ["high", "high"]
    assert (first.on_lost, first.retry) == ("fail", None)
    assert (second.payload, second.queue) == ("b", "slow")
    assert second.retry == worker.RetryPolicy(max_attempts=3, no_retry=("KeyError",))
