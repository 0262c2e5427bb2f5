"""Checks whether `gowork` is the namespace that this project's packages share, or another project's module.

PyPI has an unrelated distribution `gowork`, which is a regular package. Where it is installed, or where a file
`gowork.py` lies on the module path, Python imports that as `gowork`, and may not find this project's packages below it.
The console scripts check this before they import anything of the namespace. For a program that imports `gowork.client`
itself, nothing checks it.
"""

from __future__ import annotations

import sys

# Type checkers know the name. To import `typing` for it would take longer than everything else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


class ForeignGowork(Exception):
    """The module `gowork` is another project's. The text says where it is and what to do."""


def check_namespace() -> None:
    """Checks that `gowork` is a namespace. Imports nothing of it.

    Raises:
        ForeignGowork: `gowork` is a module or a regular package.
    """
    # Imports here and below are inside functions because every program imports this module first.
    from importlib.util import find_spec

    spec = find_spec("gowork")
    if spec is not None and spec.origin is not None:
        raise ForeignGowork(_explanation(spec, spec.origin))


def exit_if_foreign(program: str) -> None:
    """Ends the process with exit code 1 and one line on standard error when `gowork` is not this project's.

    Args:
        program: the command's name, with which the line begins.
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
