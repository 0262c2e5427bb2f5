"""Generates the reference of the Python API: each public name of each public module, with what its docstring says."""

from __future__ import annotations

import ast
import enum
import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from site_pages import ROOT
from site_text import docstring, prose

#: Modules whose public names are not listed in `__all__`, and are documented all the same.
_WITHOUT_LIST = ("gowork.client.frames", "gowork.proto.limits", "gowork.proto.status")
#: How wide signatures are drawn, in columns.
_COLUMNS = 80
#: Modules for gowork's own packages. Their names may change with any version.
_INTERNAL = ("gowork.base", "gowork.cli", "gowork.proto", "gowork_namespace")


def public_modules() -> list[str]:
    """The modules that others may import: those with `__all__`, outside of private folders."""
    found = set(_WITHOUT_LIST)
    for source in [*ROOT.glob("packages/*/src"), *ROOT.glob("plugins/*/src")]:
        for path in source.rglob("*.py"):
            names = path.relative_to(source).with_suffix("").parts
            module = ".".join(names[:-1] if names[-1] == "__init__" else names)
            private = any(name.startswith("_") for name in module.split("."))
            if not private and "plugin" not in module and re.search(r"^__all__ = ", path.read_text(), re.MULTILINE):
                found.add(module)
    return sorted(name for name in found if name in _WITHOUT_LIST or not _is_internal(name))


def _is_internal(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _INTERNAL)


def public_names(module: ModuleType) -> list[str]:
    """The public names of a module, without its version."""
    listed = getattr(module, "__all__", None)
    if listed is None:
        listed = [name for name, value in vars(module).items() if _is_own(module, name, value)]
    return sorted((name for name in listed if name != "__version__"), key=str.lower)


def _is_own(module: ModuleType, name: str, value: object) -> bool:
    if name.startswith("_") or inspect.ismodule(value):
        return False
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__module__ == module.__name__
    return name.isupper()


def pages() -> dict[str, str]:
    """The pages of the reference: {path: text}."""
    homes = _homes()
    described = {*homes.values()}
    return {f"reference/api/{module}.md": _page(module, homes) for module in public_modules() if module in described}


def indexed(name: str, owner: str) -> str:
    """Enters a name into the index of the site, with the module or class that has it."""
    return f"```{{index}} single: {name} ({owner})\n```"


def _homes() -> dict[int, str]:
    """Where each object is described: {id of the object: the shortest module that exports it}."""
    homes: dict[int, str] = {}
    for name in sorted(public_modules(), key=len):
        module = importlib.import_module(name)
        for public in public_names(module):
            homes.setdefault(_identity(module, public), name)
    return homes


def _identity(module: ModuleType, name: str) -> int:
    value = getattr(module, name)
    # Equal constants may be one object, and are still two names.
    return id(value) if callable(value) else hash((module.__name__, name))


def _page(name: str, homes: dict[int, str]) -> str:
    module = importlib.import_module(name)
    text = [f"# {name}", docstring(inspect.getdoc(module) or "")]
    constants = _comments_of(name)
    for public in public_names(module):
        home = homes[_identity(module, public)]
        if home == name:
            text.append(indexed(public, name))
            text.append(_entry(public, getattr(module, public), 2, constants.get(("", public), "")))
        else:
            text.append(f"## `{public}`\n\nIt is described in [{home}]({home}.md).")
    return "\n\n".join(text) + "\n"


def _entry(name: str, value: Any, level: int, comment: str = "") -> str:
    lines = [f"{'#' * level} `{name}`"]
    library = str(getattr(value, "__module__", "gowork")).partition(".")[0]
    if not library.startswith("gowork") and callable(value):
        # Its docstring is in another style, and its library has the reference.
        return "\n\n".join([*lines, f"It comes from {library}."])
    if inspect.isclass(value):
        lines += _class(name, value, level)
    elif callable(value):
        lines += [_signature(name, value), docstring(inspect.getdoc(value) or "")]
    else:
        lines += [f"```python\n{name} = {value!r}\n```", prose(comment)]
    return "\n\n".join(filter(None, lines))


def _class(name: str, value: type, level: int) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    if issubclass(value, enum.Enum):
        yield f"```python\nclass {name}({bases})\n```"
        yield docstring(inspect.cleandoc(value.__doc__ or ""))
        yield "\n".join(f"- `{member.name}`: `{member.value!r}`" for member in value)
        return
    called = _signature(name, value, f"class {name}({bases})" if bases else f"class {name}")
    yield called
    yield docstring(inspect.cleandoc(value.__doc__ or ""))
    init = vars(value).get("__init__")
    if init is not None and init.__doc__ and init.__module__ == value.__module__:
        yield docstring(inspect.cleandoc(init.__doc__))
    if fields := _fields(value):
        yield "\n".join(fields)
    for method, member in inspect.getmembers_static(value):
        public = not method.startswith("_")
        wanted = isinstance(member, property | staticmethod | classmethod) or inspect.isfunction(member)
        if not (public and wanted) or not _is_ours(value, method):
            continue
        function = member.fget if isinstance(member, property) else getattr(value, method)
        told = docstring(inspect.getdoc(function) or "")
        head = "" if isinstance(member, property) else _signature(method, function)
        title = f"{'#' * (level + 1)} `{name}.{method}`"
        yield "\n\n".join(filter(None, [indexed(method, name), title, head, told]))


def _is_ours(value: type, method: str) -> bool:
    """Whether a member comes from gowork, and not from a base class of the standard library."""
    return any(method in vars(base) and base.__module__.startswith("gowork") for base in value.__mro__)


def _fields(value: type) -> list[str]:
    """The fields of a class with annotations, with the comments that stand above them."""
    found = {}
    for base in reversed(value.__mro__):
        if not base.__module__.startswith("gowork"):
            continue
        comments = _comments_of(base.__module__)
        for name, kind in inspect.get_annotations(base).items():
            if not name.startswith("_"):
                comment = comments.get((base.__name__, name))
                words = f": {prose(comment)}" if comment else ""
                found[name] = f"- `{name}` (`{kind}`){words}"
    return [*found.values()]


@functools.cache
def _comments_of(module: str) -> dict[tuple[str, str], str]:
    """The comments `#:` above constants and fields of a module: {(class, or "", and name): comment}."""
    source = inspect.getsource(importlib.import_module(module))
    lines, found = source.splitlines(), {}
    for owner in ast.parse(source).body:
        inside = owner.body if isinstance(owner, ast.ClassDef) else [owner]
        for node in inside:
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and (comment := _above(lines, node.lineno - 1)):
                found[owner.name if isinstance(owner, ast.ClassDef) else "", target.id] = comment
    return found


def _above(lines: list[str], place: int) -> str:
    """The comment `#:` that ends above a line."""
    above: list[str] = []
    while place > 0 and lines[place - 1].strip().startswith("#:"):
        place -= 1
        above.insert(0, lines[place].strip().removeprefix("#:").strip())
    return " ".join(above)


def _signature(name: str, value: Any, instead: str = "") -> str:
    try:
        signature = str(inspect.signature(value))
    except (TypeError, ValueError):
        return f"```python\n{instead or name}\n```"
    # Annotations are kept as texts, and defaults may be enumerations.
    bare = re.sub(r"(: |-> )(?:'([^']*)'|\"([^\"]*)\")", r"\1\2\3", signature)
    bare = re.sub(r"<([\w.]+): [^>]*>", r"\1", bare)
    parameters = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", bare)
    shown = textwrap.fill(name + parameters, _COLUMNS, subsequent_indent="    ", break_long_words=False)
    return f"```python\n{shown}\n```"
