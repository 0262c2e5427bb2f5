"""How a handler is called: which of its parameters takes the context and which the payload."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gowork.base.annotations import resolved, result_type
from gowork.worker._core.codec import Decoder, PayloadError, ResultCheck, decoder_of, result_check_of
from gowork.worker._core.context import Context
from gowork.worker._core.forms import form_of
from gowork.worker._core.handlers import HandlerOptions
from gowork.worker._core.unknown_fields import UnknownFields
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
    #: Looks for fields that the payload's type does not have; None where there can be none.
    unknown_fields: UnknownFields | None = None
    #: Which payloads it reads: see form_of. Empty when its payload's type has no form.
    form: str = ""
    #: Checks what it returned against its annotation; None where nothing can be checked.
    check_result: ResultCheck | None = None
    #: The types of payload and result; inspect.Parameter.empty where there is no annotation, or none that resolves.
    payload_type: Any = inspect.Parameter.empty
    result_type: Any = inspect.Parameter.empty
    #: Whether an empty payload stands for a default value.
    is_payload_optional: bool = False

    @property
    def name(self) -> str:
        return self.options.name

    def arguments(self, context: Context, *, in_other_forms: bool = False) -> tuple[Any, ...]:
        """Returns the arguments to call the function with.

        Args:
            context: holds the payload.
            in_other_forms: another worker has the handler in another form, so an unknown field is an error here.

        Raises:
            PayloadError: when the payload does not fit its type.
        """
        if self.decode is None:
            return (context,) if self.takes_context else ()
        payload = self.decode(context.payload, context.data, context.payload_form)
        if self.unknown_fields is not None:
            self.unknown_fields.look(context.data or context.payload, refuse=in_other_forms)
        return (context, payload) if self.takes_context else (payload,)


def bind(function: Callable[..., Any], options: HandlerOptions, plugin: str) -> Handler:
    """Reads the function's signature: `()`, `(ctx)`, `(payload)` or `(ctx, payload)`.

    The context's parameter is annotated with Context, or is called `ctx` or `context`, or is the first of two. Only
    the annotation of the payload, and that of a single parameter, must be resolvable.

    Raises:
        HandlerDefinitionError: for a class or a generator, a signature of another form, or an annotation that cannot be
            resolved or read.
    """
    _check_kind(function, options.name)
    parameters = _parameters(function, options.name)
    takes_context = len(parameters) == 2 or (bool(parameters) and _is_context(function, parameters[0], options.name))
    decode, unknown_fields, form, annotation, optional = None, None, "", inspect.Parameter.empty, False
    rest = parameters[1:] if takes_context else parameters
    if rest:
        annotation = _resolved(function, rest[0], options.name)
        try:
            decode = decoder_of(annotation, rest[0].default)
        except PayloadError as error:
            raise HandlerDefinitionError(f"handler {options.name!r}: {error}") from error
        optional = rest[0].default is not inspect.Parameter.empty
        unknown_fields, form = UnknownFields.of(annotation, options.name), form_of(annotation)
    is_async = inspect.iscoroutinefunction(function)
    returned, check = _result(function, options.name)
    return Handler(
        options,
        plugin,
        function,
        is_async,
        takes_context,
        decode,
        unknown_fields,
        form,
        check,
        annotation,
        returned,
        optional,
    )


def _result(function: Callable[..., Any], name: str) -> tuple[Any, ResultCheck | None]:
    """Returns the type that a function returns, and the check of it; None where it names no type that can be read."""
    returned = inspect.Parameter.empty
    try:
        returned = result_type(function)
        return returned, None if returned is inspect.Parameter.empty else result_check_of(returned, name)
    except Exception:  # noqa: BLE001 - types bring code of their own, and may be imported for type checkers only
        return returned, None


def _check_kind(function: Callable[..., Any], name: str) -> None:
    inner = inspect.unwrap(function)
    if isinstance(function, type):
        what = "a class"
    elif inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        what = "a generator, whose body does not run when it is called"
    else:
        return
    raise HandlerDefinitionError(
        f"handler {name!r} is {what}; write @handler above a `def` or `async def` that returns"
    )


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


def _resolved(function: Callable[..., Any], parameter: inspect.Parameter, name: str) -> Any:
    """Returns the type that a parameter is annotated with."""
    if parameter.annotation is inspect.Parameter.empty:
        return parameter.annotation
    try:
        # Modules often import Context for type checkers only.
        return resolved(function, parameter.annotation, {"Context": Context})
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise HandlerDefinitionError(
            f"handler {name!r}: the annotation of {parameter.name!r} cannot be resolved ({reason}): "
            "define or import that type in its module at run time"
        ) from error


def _is_context(function: Callable[..., Any], parameter: inspect.Parameter, name: str) -> bool:
    return parameter.name in _CONTEXT_NAMES or _resolved(function, parameter, name) is Context
