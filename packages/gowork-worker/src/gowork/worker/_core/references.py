"""How a runner process finds a function that was handed to Worker(handlers=[…]) in another process.

It imports the module and looks up the qualified name, as multiprocessing's spawn does. For a function of the script
itself it runs the script's file again, under another name than `__main__`. When the script comes to the line that
starts the worker, the runner stops running it. So the script needs no guard `if __name__ == "__main__":`.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from gowork.worker._core.selection import Reference
from gowork.worker.errors import UnimportableError

_SCRIPT = "__gowork_main__"


class ScriptReachedWorker(BaseException):
    """Raised where a script that is being run for its handlers would start its own worker. Not an error."""


def refer(function: Callable[..., Any]) -> Reference:
    """Returns the reference to a function.

    Raises:
        UnimportableError: for a lambda, a function within a function, or one in a prompt, a notebook or an archive.
    """
    qualname = getattr(function, "__qualname__", "")
    module = getattr(function, "__module__", "")
    if not qualname or "<" in qualname:
        raise UnimportableError(
            f"{function!r} cannot be imported by a runner: define it at the top level of a module, or use runners=0"
        )
    if module != "__main__":
        return Reference(module, qualname)
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    # `python folder` and `python archive.zip` run a module of this name, which in a runner is the runner's own.
    if spec is not None and spec.name != "__main__":
        return Reference(spec.name, qualname)
    path = getattr(main, "__file__", None)
    if path is None or not os.path.exists(path):
        raise UnimportableError(
            f"{qualname} was typed into a prompt or a notebook, or is in an archive, where runner processes cannot "
            "find it: put it into a module, or use runners=0"
        )
    return Reference("", qualname, os.path.abspath(path))


def resolve(reference: Reference) -> Callable[..., Any]:
    """Returns the function that is found there.

    Raises:
        UnimportableError: when there is none.
    """
    try:
        found: Any = _run(reference.path) if reference.path else importlib.import_module(reference.module)
        for part in reference.qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UnimportableError(f"{reference.path or reference.module}: {reference.qualname}: {error}") from error
    function: Callable[..., Any] = found
    return function


def running_script() -> bool:
    """Whether this process runs a script only for its handlers."""
    return _SCRIPT in sys.modules


def _run(path: str) -> types.ModuleType:
    known = sys.modules.get(_SCRIPT)
    if known is not None:
        return known
    module = types.ModuleType(_SCRIPT)
    module.__file__ = path
    sys.modules[_SCRIPT] = module
    with open(path, "rb") as source:
        code = compile(source.read(), path, "exec")
    try:
        exec(code, module.__dict__)  # noqa: S102 - it is the user's own script
    except ScriptReachedWorker:
        pass  # Everything above that line is defined now.
    return module


def enter_runner() -> None:
    """Notes that this process is a runner: no worker may be started in it."""
    global _in_runner  # noqa: PLW0603 - a fact of the process
    _in_runner = True


def in_runner() -> bool:
    """Whether this process is a runner."""
    return _in_runner


_in_runner = False
