"""What a worker loads and offers. It travels to the runner processes, where `plugins` loads it."""

from __future__ import annotations

import msgspec


class Reference(msgspec.Struct, frozen=True):
    """Where a function is found."""

    #: The module to import; empty when `path` is given.
    module: str
    qualname: str
    #: The script to run.
    path: str = ""


#: What is said of a name of `plugins` that no plugin has.
NOT_INSTALLED = "no plugin of this name is installed"
#: What stands in place of a plugin's name where a name of `handlers` is at fault.
OF_SELECTION = "(selection)"


class Selection(msgspec.Struct, frozen=True):
    """What to load. The supervisor sends it to the runner processes."""

    #: Names of installed plugins, or of their distributions; None means all.
    plugins: tuple[str, ...] | None = None
    #: Names of handlers to offer; None means all.
    handlers: tuple[str, ...] | None = None
    #: Modules to import.
    imports: tuple[str, ...] = ()
    #: Functions given in code.
    references: tuple[Reference, ...] = ()
    default_handler: str = "echo"
    #: Names of plugins, as in PluginInfo.name. No other plugin is imported; None means all.
    only: tuple[str, ...] | None = None
    #: Whether the plugin that is built in is among those that are installed.
    built_in: bool = True
