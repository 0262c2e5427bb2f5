"""The worker as a process of its own: listeners around the service."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client.registry import Collector

from gowork.base.channels import check_token, split_addresses
from gowork.base.http import HttpListener, Page, guarded, probe, threaded
from gowork.base.local_listener import LocalListener
from gowork.base.service_manager import ServiceManager
from gowork.base.tls import REFRESH_SECONDS, Tls
from gowork.worker._app.ecs_protection import AGENT_VARIABLE, Protection
from gowork.worker._app.handler_metrics import VARIABLE, HandlerMetrics, InProcessMetrics, default_metrics_dir
from gowork.worker._app.metrics import metrics_page
from gowork.worker._app.service import Service
from gowork.worker._core.options import Options
from gowork.worker._session.callback import CallbackWorker
from gowork.worker.errors import ConfigurationError

logger = logging.getLogger("gowork.worker")


@dataclass(frozen=True, slots=True)
class Listeners:
    """Where the process listens, each HOST:PORT or None."""

    #: /metrics, /healthz and /readyz.
    http: str | None = None
    #: worker.v1.WorkerService. When it is set, the worker is a callback worker.
    work: str | None = None
    #: The address at which a leader calls that service; None for the one that it listens on.
    advertise: str | None = None
    #: Addresses, separated by commas, at which a callback worker calls TaskComplete.
    scheduler: str = ""
    #: Returns what a scrape of /metrics must show; None: nothing.
    http_token: Callable[[], str] | None = None
    #: Names of certificates that are leaders' besides those with the role, as in CN=leader.
    leader_names: Sequence[str] = ()


async def run_worker(
    options: Options,
    leader: str,
    listeners: Listeners,
    *,
    tls: Tls | None = None,
    ready: Callable[[dict[str, Any]], None] | None = None,
    manager: ServiceManager | None = None,
    ecs_protection_minutes: int = 0,
) -> None:
    """Runs a worker until SIGTERM or SIGINT.

    Args:
        options: the worker's.
        leader: addresses of leaders, separated by commas.
        listeners: where to listen.
        tls: the certificates with which leaders are called, and a callback worker serves; None: plain text.
        ready: called with facts about the worker when a leader has accepted it.
        manager: is told how the worker is; None: nobody is.
        ecs_protection_minutes: for how long at a time a worker in Amazon ECS protects itself while it has work; 0: it
            does not.

    Raises:
        AddressError: when an address is not HOST:PORT.
        OSError: when a port is taken.
        ConfigurationError: when an environment of `plugin_envs` can't be used.
    """
    service = _make(options, split_addresses(leader), listeners, tls)
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        if ecs_protection_minutes and (uri := os.environ.get(AGENT_VARIABLE)):
            supervisor = service.supervisor
            protection = Protection(uri, lambda: supervisor.has_work, ecs_protection_minutes)
            protection.start()
            stack.callback(protection.close)
        http = None
        if listeners.http is not None:
            others = _handlers_metrics(service, stack)
            http = stack.enter_context(
                _listening(
                    listeners.http,
                    {
                        "/metrics": guarded(
                            threaded(metrics_page(service.supervisor, *others, tls=tls)),
                            listeners.http_token,
                        ),
                        "/healthz": probe(lambda: (True, "ok"), loop),
                        "/readyz": probe(lambda: _readiness(service), loop),
                    },
                )
            )
        stack.enter_context(LocalListener("worker", options.name, lambda: _readiness(service), loop))
        telling = (manager or ServiceManager("")).telling(lambda: _readiness(service), lambda: service.is_told_to_stop)
        async with telling, asyncio.TaskGroup() as group:
            announcer = group.create_task(_announce(service, ready, http), name="announcer")
            renewing = group.create_task(_renew(tls), name="certificates")
            refusal = None
            try:
                await service.run(own_process=True)
            except ConfigurationError as error:
                # Raised below, because a group of tasks would wrap it.
                refusal = error
            announcer.cancel()
            renewing.cancel()
    if refusal is not None:
        raise refusal


def _listening(address: str, pages: Mapping[str, Page]) -> HttpListener:
    """Listens for HTTP. When the port is taken, the OSError names the options that take another."""
    try:
        return HttpListener(address, pages)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        hint = "Choose another port by --http-listen, or by --workers-http-port of gowork up"
        raise OSError(error.errno, f"{error.strerror}. {hint}") from error


def _make(options: Options, addresses: Sequence[str], listeners: Listeners, tls: Tls | None) -> Service:
    check_token(addresses, tls)
    if listeners.work is None:
        return Service(options, addresses, tls)
    # It lends no slots, because its leader sends the next task only when the last one has ended.
    service = Service(replace(options, lent_slots_max=0), addresses, tls)
    service.link = CallbackWorker(
        service.supervisor,
        addresses,
        listen=listeners.work,
        advertise=listeners.advertise,
        scheduler=split_addresses(listeners.scheduler),
        tls=tls,
        leader_names=listeners.leader_names,
    )
    return service


def _handlers_metrics(service: Service, stack: contextlib.ExitStack) -> list[Collector]:
    """Returns what collects the handlers' metrics. It lasts until `stack` is left."""
    if not service.options.runners:
        return [InProcessMetrics()]
    # prometheus_client still heeds the lower-case name, which it used first.
    if os.environ.get(VARIABLE) or os.environ.get(VARIABLE.lower()):
        logger.info("metrics of handlers go where the environment says, and are not on this worker's page")
        return []
    try:
        keeper = stack.enter_context(HandlerMetrics(default_metrics_dir()))
    except OSError as error:
        logger.warning("metrics of handlers are not on this worker's page", extra={"reason": str(error)})
        return []
    service.supervisor.fleet.metrics = keeper
    return [keeper]


async def _announce(
    service: Service, ready: Callable[[dict[str, Any]], None] | None, http: HttpListener | None
) -> None:
    await service.welcomed()
    if ready is not None:
        facts: dict[str, Any] = {
            "name": service.options.name,
            "pid": os.getpid(),
            "runners": service.supervisor.fleet.pids,
            "slots": service.options.slots,
            "handlers": [note.name for note in service.supervisor.handlers.handlers],
            "http": http.address if http is not None else None,
        }
        if isinstance(service.link, CallbackWorker):
            facts["listen"] = service.link.address
        ready(facts)


async def _renew(tls: Tls | None) -> None:
    """Uses certificates anew when their files have changed, also while a session lasts or the leader calls."""
    while tls is not None:
        await asyncio.sleep(REFRESH_SECONDS)
        # In a thread, because a disk may hang.
        await asyncio.to_thread(tls.refresh, 0.0)


def _readiness(service: Service) -> tuple[bool, str]:
    if service.supervisor.draining:
        return False, "draining"
    if not service.link.connected:
        return False, "no session with a leader"
    return True, "ok"
