"""What programs import to write handlers or to run a worker. gRPC and protobuf are loaded only when a worker runs."""

from gowork.base.schedule_times import At, Cron, Every
from gowork.worker._app.worker import Worker
from gowork.worker._core.cancellation import CancelToken
from gowork.worker._core.context import Context
from gowork.worker._core.handlers import handler
from gowork.worker._core.lifespans import lifespan
from gowork.worker._core.new_tasks import NewTask, OnLostName, PriorityName, RetryPolicy, TaskOptions
from gowork.worker._core.registry import PluginRegistry
from gowork.worker._core.schedules import Schedule
from gowork.worker._core.steering import Cancel, Fail, Retry, Snooze
from gowork.worker._core.waiting import WaitFor
from gowork.worker._version import __version__
from gowork.worker.errors import (
    ConfigurationError,
    HandlerDefinitionError,
    PluginError,
    UnimportableError,
    WorkerError,
    WorkerFailed,
)
from gowork.worker.hookspecs import hookimpl

__all__ = [
    "At",
    "Cancel",
    "CancelToken",
    "ConfigurationError",
    "Context",
    "Cron",
    "Every",
    "Fail",
    "HandlerDefinitionError",
    "NewTask",
    "OnLostName",
    "PluginError",
    "PluginRegistry",
    "PriorityName",
    "Retry",
    "RetryPolicy",
    "Schedule",
    "Snooze",
    "TaskOptions",
    "UnimportableError",
    "WaitFor",
    "Worker",
    "WorkerError",
    "WorkerFailed",
    "__version__",
    "handler",
    "hookimpl",
    "lifespan",
]
