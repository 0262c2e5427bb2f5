"""Finds the newest definition of a handler that was typed into a notebook or a prompt, where cells are run again.

Only handlers of such a `__main__` are looked up. Those of modules and scripts stay what they were when they were
loaded.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from gowork.worker._core.calls import Handler, bind
from gowork.worker._core.handlers import options_of
from gowork.worker.errors import HandlerDefinitionError

logger = logging.getLogger("gowork.worker")


class Redefinitions:
    """What has taken the place of handlers so far."""

    def __init__(self) -> None:
        #: {name of a handler: its newest function, and what is run for it}
        self._known: dict[str, tuple[Callable[..., Any], Handler]] = {}

    def newest(self, handler: Handler) -> Handler:
        """Returns the handler whose function has the same name in `__main__` now, or the given one.

        A definition that cannot be a handler is logged, and the one before it is run.
        """
        function = handler.function
        if getattr(function, "__module__", None) != "__main__":
            return handler
        known, latest = self._known.get(handler.name, (function, handler))
        main = sys.modules.get("__main__")
        found = getattr(main, getattr(function, "__qualname__", ""), None)
        if found is known or found is None or hasattr(main, "__file__"):
            return latest
        options = options_of(found)
        if options is None or options.name != handler.name:
            return latest
        try:
            latest = bind(found, options, handler.plugin)
            logger.info("a handler was defined anew", extra={"handler": handler.name})
        except HandlerDefinitionError as error:
            logger.error(
                "a handler's new definition cannot be used; the one before it runs", extra={"reason": str(error)}
            )
        self._known[handler.name] = found, latest
        return latest
