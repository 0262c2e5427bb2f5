"""Tracing set up by a user whose parts raise: an attempt goes without its span, and nothing else changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import context
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import handler
from gowork.worker._core.context import Place
from gowork.worker._runner import spans

MakeRig = Callable[..., Any]


class Halt(BaseException):
    """What no `except Exception` stops."""


class BrokenSpan:
    """Begins, and raises in one of its methods."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*_: Any, **__: Any) -> Any:
            if name == self._method:
                raise Halt
            from opentelemetry.trace import INVALID_SPAN_CONTEXT

            return {"is_recording": True, "get_span_context": INVALID_SPAN_CONTEXT}.get(name)

        return call


@pytest.mark.parametrize("method", ["begin", "is_recording", "set_attribute", "set_status", "add_event", "end"])
async def test_what_a_tracing_library_raises_costs_no_task(
    make_rig: MakeRig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    @handler
    def plain() -> None:
        raise ValueError

    @handler
    async def on_loop() -> None:
        raise ValueError

    def begin(_: Any) -> Any:
        if method == "begin":
            raise Halt
        return BrokenSpan(method)

    rig = make_rig(plain, on_loop, slots=1)
    traced = spans.AttemptSpans(Place("w"))
    monkeypatch.setattr(traced, "_begin", begin)
    rig.executor._attempts._spans = traced
    with caplog.at_level(logging.WARNING, "gowork.worker.runner"):
        for fence, name in enumerate(("plain", "on_loop", "plain", "on_loop"), 1):
            rig.feed((fence, name))
            report = await rig.report(fence)
            assert (report.outcome, report.failure.type) == (tasks.ATTEMPT_OUTCOME_FAILED, "ValueError")
    assert rig.executor.idle
    # Once for all of them.
    assert [record.message for record in caplog.records if "traced" in record.message] == [
        "an attempt could not be traced, and others may not be either"
    ]


@pytest.mark.parametrize("method", ["attach", "detach", "get_current"])
async def test_what_keeps_the_contexts_of_traces_costs_no_task_by_what_it_raises(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    class BrokenRuntime:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            def call(*_: Any) -> Any:
                if name == method:
                    raise Halt
                return Context() if name == "get_current" else object()

            return call

    @handler
    def plain() -> str:
        return "done"

    @handler
    async def on_loop() -> str:
        return "done"

    monkeypatch.setattr(context, "_RUNTIME_CONTEXT", BrokenRuntime())
    rig = make_rig(plain, on_loop, slots=1)
    traced = spans.AttemptSpans(Place("w"))
    monkeypatch.setattr(traced, "_begin", lambda job: NonRecordingSpan(INVALID_SPAN_CONTEXT))
    rig.executor._attempts._spans = traced
    for fence, name in enumerate(("plain", "on_loop"), 1):
        rig.feed((fence, name))
        assert (await rig.report(fence)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert rig.executor.idle
