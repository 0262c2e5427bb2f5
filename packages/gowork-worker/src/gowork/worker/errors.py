"""What gowork-worker raises.

WorkerError
├── HandlerDefinitionError   a handler or lifespan that cannot be one
├── PluginError              a plugin that could not be loaded
├── UnimportableError        a function that a runner process could not import
├── ConfigurationError       an option of a worker that is beyond its limits
└── WorkerFailed             a worker that ended by itself
"""

from __future__ import annotations


class WorkerError(Exception):
    """Something is wrong with this worker's set-up."""


class HandlerDefinitionError(WorkerError):
    """A function cannot be a handler, or a lifespan, as it is written."""


class PluginError(WorkerError):
    """A plugin could not be loaded.

    Attributes:
        plugin: the plugin's name.
        reason: why, in words.
    """

    def __init__(self, plugin: str, reason: str) -> None:
        super().__init__(f"{plugin}: {reason}")
        self.plugin = plugin
        self.reason = reason

    def __reduce__(self) -> tuple[type[PluginError], tuple[str, str]]:
        # Exception keeps one joined text, but __init__ takes two arguments.
        return type(self), (self.plugin, self.reason)


class UnimportableError(WorkerError):
    """A runner process could not import this function; define it at the top level of a module, or use runners=0."""


class ConfigurationError(WorkerError):
    """An option of this worker is beyond its limits."""


class WorkerFailed(WorkerError):
    """The worker ended though nobody asked it to. `__cause__` is the error that ended it."""
