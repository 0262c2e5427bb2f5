"""Whether `gowork` is the namespace that this project's packages share, or somebody else's module.

An index has an unrelated distribution `gowork`, a regular package. Where it is installed, or where a file `gowork.py`
lies on the module path, Python takes that for `gowork`, and nothing below it can be relied on. The console scripts ask
here before they import anything of the namespace. A program that imports `gowork.client` beside it cannot be helped.
"""

from __future__ import annotations

import sys

# Type checkers know the name. Importing `typing` for it would take longer than all the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


class ForeignGowork(Exception):
    """The module `gowork` is another project's; the text says where it is and what to do."""


def check_namespace() -> None:
    """Returns when `gowork` is a namespace. Imports nothing of it.

    Raises:
        ForeignGowork: when it is a module or a regular package.
    """
    # Here and below only when it is needed: all programs begin by importing this.
    from importlib.util import find_spec

    spec = find_spec("gowork")
    if spec is not None and spec.origin is not None:
        raise ForeignGowork(_explanation(spec, spec.origin))


def exit_if_foreign(program: str) -> None:
    """Ends the process with exit code 1 and one line on standard error when `gowork` is not this project's.

    Args:
        program: the command's name, which the line begins with.
    """
    try:
        check_namespace()
    except ForeignGowork as error:
        sys.exit(f"{program}: {error}")


def _explanation(spec: ModuleSpec, origin: str) -> str:
    from importlib.metadata import PackageNotFoundError, version
    from pathlib import Path

    message = (
        f"{origin} is not part of this project, but has its name, so that Python finds nothing else under 'gowork'"
    )
    if spec.submodule_search_locations is None:
        return f"{message}. Rename it, or take {Path(origin).parent} off the module path."
    try:
        found = version("gowork")
    except PackageNotFoundError:
        return f"{message}. Remove it, or take {Path(origin).parents[1]} off the module path."
    remedy = (
        "Uninstall it: python3 -m pip uninstall gowork. Or install gowork-cli and its like into another environment."
    )
    return f"{message}. It belongs to the distribution 'gowork' {found}. {remedy}"
