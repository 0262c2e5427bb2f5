"""The leader's services are composed of parts: one answers each call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gowork.leader._rpc.services import SERVICES, compose
from gowork.leader._rpc.submissions import SUBMIT_TASKS


def answer(request: object, context: object) -> None:
    """Answers nothing."""


def parts() -> dict[str, list[Any]]:
    """One part for each service."""
    return {service: [SimpleNamespace(**dict.fromkeys(names, answer))] for service, names in SERVICES.items()}


def test_each_call_is_answered_by_the_part_that_has_it() -> None:
    of = parts()
    of["scheduler.v1.SchedulerService"].append(SimpleNamespace(of_no_call=answer))
    methods = compose(of)
    assert set(methods) == {f"{service}/{name}" for service, names in SERVICES.items() for name in names} - {
        SUBMIT_TASKS
    }
    assert set(methods.values()) == {answer}


def test_a_call_that_no_part_answers_is_refused_at_the_start() -> None:
    of = parts()
    del of["scheduler.v1.SchedulerService"][0].GetTask
    with pytest.raises(ValueError, match=r"scheduler\.v1\.SchedulerService/GetTask .* 0 have it"):
        compose(of)


def test_a_call_that_two_parts_answer_is_refused_at_the_start() -> None:
    of = parts()
    of["cluster.v1.LeaderService"].append(SimpleNamespace(Join=answer))
    with pytest.raises(ValueError, match=r"cluster\.v1\.LeaderService/Join .* 2 have it"):
        compose(of)
