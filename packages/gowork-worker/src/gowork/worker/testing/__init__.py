"""Runs handlers in tests as a worker would, without a leader: the worker's own code on a clock of the test's."""

from gowork.worker._core.new_tasks import FollowUp
from gowork.worker._core.waiting import Wait
from gowork.worker.testing._clock import FakeClock
from gowork.worker.testing._context import FakeContext
from gowork.worker.testing._faults import Fault, Switch, cancel, drain, lose_lease, regain_lease
from gowork.worker.testing._outcome import Failure, FailureKind, NotCompleted, Outcome, Progress, Status
from gowork.worker.testing._run import HandlerStuck, RunOptions, run_handler, run_handler_async

__all__ = [
    "Failure",
    "FailureKind",
    "FakeClock",
    "FakeContext",
    "Fault",
    "FollowUp",
    "HandlerStuck",
    "NotCompleted",
    "Outcome",
    "Progress",
    "RunOptions",
    "Status",
    "Switch",
    "Wait",
    "cancel",
    "drain",
    "lose_lease",
    "regain_lease",
    "run_handler",
    "run_handler_async",
]
