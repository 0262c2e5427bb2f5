"""Finds what claims the scheme of a URL: stores and logs. All are plugins, and so are the built-in ones.

No message has what may be a password: the part of a URL before an @, and all after a question mark.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import pluggy

from gowork.base import extensions

_T = TypeVar("_T")
_RegistryT = TypeVar("_RegistryT", bound="SchemeRegistry[Any]")

hookspec = pluggy.HookspecMarker("gowork")
hookimpl = pluggy.HookimplMarker("gowork")

logger = logging.getLogger(__name__)


class SchemeRegistry(Generic[_T]):
    """Knows who makes what the URLs of a scheme name. A subclass says what that is."""

    #: What the URLs name, as in "store".
    noun: ClassVar[str]
    #: What `make` raises.
    error: ClassVar[type[Exception]]

    def __init__(self) -> None:
        #: {scheme: makers}. More than one maker is a conflict, for which `make` raises an error.
        self._makers: dict[str, list[Callable[[str], _T]]] = {}
        #: {plugin, with its distribution and version: why it failed}
        self.errors: dict[str, str] = {}

    def add(self, scheme: str, maker: Callable[[str], _T]) -> None:
        """Claims the URLs of a scheme, as in `sqlite`."""
        self._makers.setdefault(scheme.lower(), []).append(maker)

    def example(self, url: str) -> str:
        """Returns a URL that makes sense, for somebody who wrote this one."""
        raise NotImplementedError

    def make(self, url: str) -> _T:
        """Returns what this URL names, not opened yet.

        Raises:
            StoreError, LogError: nothing claims the scheme, or more than one does, or the rest of the URL makes no
                sense.
        """
        scheme, separator, _ = url.partition("://")
        if not separator:
            raise self.error(
                f"{shown(url)!r} is no {self.noun} URL: it must read SCHEME://…, as in {self.example(url)}."
            )
        makers = self._makers.get(scheme.lower(), [])
        if not makers:
            broken = "".join(f" Its plugin {name} could not be loaded: {why}." for name, why in self.errors.items())
            known = ", ".join(sorted(self._makers))
            raise self.error(f"No {self.noun} is known for {shown(scheme)}://. Known: {known}.{broken}")
        if len(makers) > 1:
            names = ", ".join(f"{maker.__module__}.{maker.__qualname__}" for maker in makers)
            raise self.error(f"More than one {self.noun} claims {scheme}://: {names}. Uninstall all but one.")
        return makers[0](url)


def shown(url: str) -> str:
    """Returns a URL without what may be a password."""
    place, question_mark, _ = url.partition("?")
    head, separator, rest = place.rpartition("://")
    _, at, hosts = rest.rpartition("@")
    return f"{head}{separator}{'…@' if at else ''}{hosts}{'?…' if question_mark else ''}"


def load(registry: _RegistryT, specs: type, builtin: object, hook: str, group: str) -> _RegistryT:
    """Has the built-in plugin and all that are installed register what they have.

    A plugin that fails is named in `errors` and in the log. The others still work.

    Args:
        registry: is filled, and returned.
        specs: the class that specifies the hook.
        builtin: the built-in plugin.
        hook: the hook's name.
        group: the group of the plugins' entry points.
    """
    manager = pluggy.PluginManager("gowork")
    manager.add_hookspecs(specs)
    getattr(builtin, hook)(registry)
    for extension in extensions.installed(group):
        try:
            extensions.attempt(partial(_ask, manager, hook, extension.load(), registry), extension.title)
        except extensions.ExtensionError as error:
            # A plugin that fails must not stop a leader that does not need it.
            registry.errors[extension.title] = str(error)
            logger.warning("%s plugin failed", registry.noun, extra={"plugin": extension.title, "reason": str(error)})
    return registry


def _ask(manager: pluggy.PluginManager, hook: str, plugin: object, registry: object) -> None:
    """Has one plugin register what it has."""
    if manager.is_registered(plugin):
        return
    others = manager.get_plugins()
    manager.register(plugin)
    manager.subset_hook_caller(hook, others)(registry=registry)
