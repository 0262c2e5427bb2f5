"""Writes the beginning of a plugin: a package that can be installed, tested and run at once."""

from __future__ import annotations

import builtins
import keyword
import re
from importlib import resources
from pathlib import Path
from string import Template

from msgspec import Struct

from gowork.worker._version import __version__

#: {file of the template: where it goes in the package; in braces what the package's names stand for}
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "ci.yml": ".github/workflows/ci.yml",
    "init.py": "src/{module}/__init__.py",
    "plugin.py": "src/{module}/plugin.py",
    "test_plugin.py": "tests/test_{function}.py",
}
_PREFIX = "gowork-plugin-"
#: As in names of distributions, without their capitals and dots: each has one form as a module.
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_NAME_CHARS_MAX = 60
#: What the files import.
_TAKEN = frozenset({"cancel", "dataclass", "handler", "run_handler"})
#: The handlers that come with gowork. Of two plugins with one handler neither gets it.
_SHIPPED = frozenset({"container", "echo", "http", "python", "python-async", "python-process", "shell"})


class ScaffoldError(Exception):
    """The package can't be written. The message says why, and what to do."""


class Names(Struct, frozen=True):
    """What a new plugin is called."""

    #: Of the entry point and the handler.
    plugin: str
    #: Of the package, for pip.
    distribution: str
    #: Of the package, for Python.
    module: str
    #: Of the handler's function.
    function: str


def names_of(name: str) -> Names:
    """Returns what a plugin with this name is called; the name may be that of its distribution.

    Raises:
        ScaffoldError: it is no name, or that of a handler that comes with gowork.
    """
    if not _NAME.fullmatch(name) or len(name) > _NAME_CHARS_MAX:
        wanted = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:_NAME_CHARS_MAX].strip("-")
        hint = f", such as {wanted}" if wanted else ""
        raise ScaffoldError(
            f"{name!r} can't be a plugin's name: it takes small letters, digits and single hyphens, begins with a "
            f"letter, and has at most {_NAME_CHARS_MAX} characters{hint}"
        )
    plugin = name.replace("_", "-").removeprefix(_PREFIX)
    function = plugin.replace("-", "_")
    if not plugin or plugin == _PREFIX.strip("-"):
        raise ScaffoldError(f"{name!r} says nothing behind {_PREFIX!r}: name what the plugin does")
    if plugin in _SHIPPED:
        raise ScaffoldError(
            f"{plugin!r} is a handler that comes with gowork, and a worker runs neither of two with one name: name it "
            f"otherwise, such as my-{plugin}"
        )
    if keyword.iskeyword(function) or hasattr(builtins, function) or function in _TAKEN:
        function += "_task"
    distribution = f"{_PREFIX}{plugin}"
    return Names(plugin, distribution, distribution.replace("-", "_"), function)


def write_plugin(names: Names, folder: Path) -> list[Path]:
    """Writes a plugin into a folder that is empty or not there. Returns its files, without the folder.

    Raises:
        ScaffoldError: the folder has files already, or can't be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ScaffoldError(f"{folder} is not empty: it was left as it is. Name another folder by --directory.")
        written = []
        for source, place in _FILES.items():
            path = Path(place.format(module=names.module, function=names.function))
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(_filled(source, names), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise ScaffoldError(f"{error.filename or folder} can't be written: {error.strerror or error}") from error
    return written


def _filled(source: str, names: Names) -> str:
    template = resources.files(__package__) / "template" / f"{source}.txt"
    values = {
        "plugin": names.plugin,
        "distribution": names.distribution,
        "module": names.module,
        "function": names.function,
        "versions": _versions(),
    }
    return Template(template.read_text(encoding="utf-8")).substitute(values)


def _versions() -> str:
    """Returns the versions of gowork-worker that a plugin which begins today works with."""
    major, minor = __version__.split(".")[:2]
    return f">={major}.{minor},<{major}.{int(minor) + 1}"
