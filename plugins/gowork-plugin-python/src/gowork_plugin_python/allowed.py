"""Says which functions may be called, before anything of theirs is imported."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

#: The environment variable that has the allow-list: patterns, separated by commas, spaces or lines.
ALLOW_VARIABLE = "GOWORK_PYTHON_ALLOW"
PATTERNS_MAX = 1000
NAME_CHARS_MAX = 500
#: What a pattern may look like, for errors.
_FORMS = "package.module:name, or package.module:* for all that the module offers"


class NotAllowed(ValueError):
    """The allow-list of this worker has no pattern for this name."""


@dataclass(frozen=True, slots=True)
class Target:
    """A function that may be called."""

    module: str
    #: Its name in the module, with dots where it is an attribute of something there.
    qualname: str
    #: Whether a pattern names it. Otherwise only `*` allows it, and the module must offer it: see `offers`.
    is_named: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.qualname}"


class AllowList:
    """The functions that this worker calls.

    A pattern `package.module:name` allows that one; the name may have dots, as in `module:Class.method`. A pattern
    `package.module:*` allows what the module offers: see `offers`. Without any pattern nothing is allowed.
    """

    def __init__(self, text: str) -> None:
        """Reads the patterns.

        Raises:
            ValueError: when one of them is no pattern, or when there are more than PATTERNS_MAX.
        """
        patterns = text.replace(",", " ").split()
        if len(patterns) > PATTERNS_MAX:
            raise ValueError(f"{ALLOW_VARIABLE}: it has {len(patterns)} patterns; at most {PATTERNS_MAX} are read")
        #: Modules with `*`.
        self._modules: set[str] = set()
        #: {(module, name), ...}
        self._names: set[tuple[str, str]] = set()
        for pattern in patterns:
            module, _, name = pattern.partition(":")
            if not _is_dotted(module) or not (name == "*" or _is_dotted(name)):
                raise ValueError(f"{ALLOW_VARIABLE}: {pattern!r:.100} is no pattern; write {_FORMS}")
            if name == "*":
                self._modules.add(module)
            else:
                self._names.add((module, name))

    def __bool__(self) -> bool:
        return bool(self._modules or self._names)

    def find(self, name: str) -> Target:
        """Returns the target of this name. Imports nothing.

        Args:
            name: `package.module:name`.

        Raises:
            ValueError: when it is no such name.
            NotAllowed: when no pattern allows it.
        """
        module, colon, qualname = name.partition(":")
        if len(name) > NAME_CHARS_MAX:
            raise ValueError(f"it has {len(name)} characters; a name has at most {NAME_CHARS_MAX}")
        if not colon and _is_dotted(name) and "." in name:
            raise ValueError(f"write a colon between module and name, as in {':'.join(name.rsplit('.', 1))!r}")
        if not _is_dotted(module) or not _is_dotted(qualname):
            raise ValueError(f"{name!r:.100} is no name of a function; write package.module:name")
        if (module, qualname) in self._names:
            return Target(module, qualname, is_named=True)
        if module in self._modules and "." not in qualname and not qualname.startswith("_"):
            return Target(module, qualname, is_named=False)
        raise NotAllowed(f"{name} is not allowed on this worker; {ALLOW_VARIABLE} has the functions that are")


def offers(module: ModuleType, name: str) -> bool:
    """Whether a module offers this name itself: its `__all__` has it; without an `__all__`, it defines it.

    So `package.module:*` allows nothing that the module has merely imported, such as the functions of `os`.
    """
    exported = getattr(module, "__all__", None)
    if exported is not None:
        return name in exported
    return getattr(getattr(module, name, None), "__module__", None) == module.__name__


def _is_dotted(text: str) -> bool:
    return bool(text) and all(part.isidentifier() for part in text.split("."))
