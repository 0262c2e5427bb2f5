"""Sets up tracing, if the standard OTEL_* variables ask for it. Nothing else configures it.

Without them OpenTelemetry's SDK is not imported, no thread is started and no call is intercepted. A program that uses
gowork as a library is left alone: `is_traced` looks at the tracer provider that the program has set.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Protocol

_log = logging.getLogger("gowork.telemetry")

#: The module that reads OTEL_PROPAGATORS when it is imported.
_PROPAGATORS = "opentelemetry.propagate"
_EXPORTERS = ("otlp", "console")
_PROTOCOLS = ("grpc", "http/protobuf")
_SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
#: The entry point group in which packages register samplers for OpenTelemetry's SDK.
_SAMPLER_GROUP = "opentelemetry_traces_sampler"


class TelemetryError(ValueError):
    """A variable has an unknown or unusable value. The text names the variable and the value."""


class Telemetry(Protocol):
    """Tracing that `start` has set up."""

    def stop(self) -> None:
        """Exports the remaining spans, within telemetry_sdk.FLUSH_SECONDS. Call it last, from any thread."""


def start(service_name: str) -> Telemetry | None:
    """Sets up tracing for this process, if the environment asks for it and the program has not done so itself.

    The environment asks for it by OTEL_TRACES_EXPORTER (otlp, console, or both joined by a comma), or by the address of
    a collector in OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT. OTEL_TRACES_EXPORTER=none or
    OTEL_SDK_DISABLED=true turns it off.

    Args:
        service_name: the resource's service.name, if the environment names none.

    Returns:
        What to stop at the end of the process; None when nothing is set up.

    Raises:
        TelemetryError: a variable has an unknown or unusable value.
    """
    exporters = exporters_of(os.environ)
    if not exporters:
        return None
    protocol = _protocol_of(os.environ)
    _check_sampler(os.environ)
    if is_traced():
        return None
    with _in_one_line_each():
        try:
            settle_propagators()
            from gowork.base.telemetry_sdk import Exporting
        except Exception as error:
            # The SDK reads some variables when it is imported, and may raise any exception.
            raise TelemetryError(f"a variable OTEL_… has a value that can't be used: {error}") from error
        return Exporting(service_name, exporters, protocol)


@contextmanager
def _in_one_line_each() -> Iterator[None]:
    """Collects OpenTelemetry's warnings about variables in this context, and logs them at its end, each in one line.

    The SDK logs some with a traceback, and some several times, and goes on with its defaults.
    """
    kept = _Kept()
    logger = logging.getLogger("opentelemetry")
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(kept)
    try:
        yield
    finally:
        logger.removeHandler(kept)
        logger.propagate = propagates
        for complaint in kept.complaints:
            _log.warning("OpenTelemetry does not take a variable OTEL_… as it is: %s", complaint)


class _Kept(logging.Handler):
    """Keeps the texts of warnings and errors, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        #: {text: None}, in the order in which they came.
        self.complaints: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        reason = f" ({type(error).__name__}: {error})" if error is not None else ""
        self.complaints[" ".join(f"{record.getMessage()}{reason}".split())] = None


def settle_propagators() -> None:
    """Imports OpenTelemetry's propagators. gowork needs only that of W3C.

    OTEL_PROPAGATORS may name others, because operators set it for all programs alike. One that is not installed here
    makes the import fail. Then the default is taken, because gowork does not use the others.
    """
    try:
        importlib.import_module(_PROPAGATORS)
    except ValueError:
        named = os.environ.pop("OTEL_PROPAGATORS", "")
        try:
            importlib.import_module(_PROPAGATORS)
        finally:
            # Programs that this one starts may have them installed.
            os.environ["OTEL_PROPAGATORS"] = named


def is_traced() -> bool:
    """Whether this process has a tracer provider that makes spans.

    It takes a tenth of a microsecond. Ask it once for a call or a batch, not for each task.
    """
    # A program that has not imported OpenTelemetry has set no provider either.
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return False
    return not isinstance(trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider))


def exporters_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the exporters that the environment asks for, of "otlp" and "console"; none when it asks for no tracing.

    Raises:
        TelemetryError: OTEL_TRACES_EXPORTER names an unknown exporter.
    """
    if _value(environment, "OTEL_SDK_DISABLED").lower() == "true":
        return ()
    named = _value(environment, "OTEL_TRACES_EXPORTER")
    if not named:
        endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        return ("otlp",) if any(_value(environment, name) for name in endpoints) else ()
    names = tuple(dict.fromkeys(name.strip() for name in named.split(",") if name.strip()))
    if names == ("none",):
        return ()
    for name in names:
        _check("OTEL_TRACES_EXPORTER", name, (*_EXPORTERS, "none") if len(names) == 1 else _EXPORTERS)
    return names


def _protocol_of(environment: Mapping[str, str]) -> str:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = _value(environment, name)
        if protocol:
            _check(name, protocol, _PROTOCOLS)
            return protocol
    return "grpc"


def _check_sampler(environment: Mapping[str, str]) -> None:
    """Raises TelemetryError for an unknown sampler. The SDK would only warn of it, and record everything."""
    sampler = _value(environment, "OTEL_TRACES_SAMPLER").lower()
    if not sampler:
        return
    if sampler not in _SAMPLERS:
        _check("OTEL_TRACES_SAMPLER", sampler, (*_SAMPLERS, *entry_points(group=_SAMPLER_GROUP).names))
    argument = _value(environment, "OTEL_TRACES_SAMPLER_ARG")
    if argument and sampler.endswith("traceidratio"):
        try:
            known = 0 <= float(argument) <= 1
        except ValueError:
            known = False
        if not known:
            raise TelemetryError(f"OTEL_TRACES_SAMPLER_ARG is {argument!r}; {sampler} takes a number from 0 to 1")


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise TelemetryError(f"{name} is {value!r}; it takes {', '.join(known)}")


def _value(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name, "").strip()
