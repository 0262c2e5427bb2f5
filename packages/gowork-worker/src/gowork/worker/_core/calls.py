"""How a handler is called: which of its parameters takes the context and which the payload."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from gowork.worker._core.codec import Decoder, PayloadError, decoder_of
from gowork.worker._core.context import Context
from gowork.worker._core.handlers import HandlerOptions
from gowork.worker.errors import HandlerDefinitionError

_CONTEXT_NAMES = ("ctx", "context")


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler that is ready to be called."""

    options: HandlerOptions
    #: The plugin that it comes from.
    plugin: str
    function: Callable[..., Any]
    #: Whether calling it gives a coroutine.
    is_async: bool
    takes_context: bool
    #: None when it takes no payload.
    decode: Decoder | None

    @property
    def name(self) -> str:
        return self.options.name

    def arguments(self, context: Context) -> tuple[Any, ...]:
        """What to call the function with.

        Raises:
            PayloadError: when the payload does not fit.
        """
        if self.decode is None:
            return (context,) if self.takes_context else ()
        payload = self.decode(context.payload, context.data, context.payload_form)
        return (context, payload) if self.takes_context else (payload,)


def bind(function: Callable[..., Any], options: HandlerOptions, plugin: str) -> Handler:
    """Reads the function's signature: `()`, `(ctx)`, `(payload)` or `(ctx, payload)`.

    The context's parameter is annotated with Context, or is called `ctx` or `context`, or is the first of two.

    Raises:
        HandlerDefinitionError: for a signature of another form, or annotations that cannot be resolved or read.
    """
    parameters = _parameters(function, options.name)
    hints = _hints(function, options.name)
    takes_context = bool(parameters) and (len(parameters) == 2 or _is_context(parameters[0], hints))
    decode = None
    rest = parameters[1:] if takes_context else parameters
    if rest:
        try:
            decode = decoder_of(hints.get(rest[0].name, inspect.Parameter.empty), rest[0].default)
        except PayloadError as error:
            raise HandlerDefinitionError(f"handler {options.name!r}: {error}") from error
    return Handler(options, plugin, function, inspect.iscoroutinefunction(function), takes_context, decode)


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    every = list(inspect.signature(function).parameters.values())
    taken = [parameter for parameter in every if parameter.kind in kinds]
    # Further parameters with defaults are the function's own business.
    while len(taken) > 2 and taken[-1].default is not inspect.Parameter.empty:
        taken.pop()
    needed = [
        parameter
        for parameter in every
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty
    ]
    if len(taken) > 2 or needed:
        names = ", ".join(parameter.name for parameter in every)
        raise HandlerDefinitionError(
            f"handler {name!r} takes ({names}); a handler takes (), (ctx), (payload) or (ctx, payload)"
        )
    return taken


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        names = dict(inspect.getclosurevars(function).nonlocals) if inspect.isfunction(function) else {}
        if "Context" not in getattr(function, "__globals__", {}):
            # Modules often import it for type checkers only.
            names.setdefault("Context", Context)
        return get_type_hints(function, localns=names, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise HandlerDefinitionError(
            f"handler {name!r}: its annotations cannot be resolved ({error}): its module must define them"
        ) from error


def _is_context(parameter: inspect.Parameter, hints: dict[str, Any]) -> bool:
    return hints.get(parameter.name) is Context or parameter.name in _CONTEXT_NAMES
