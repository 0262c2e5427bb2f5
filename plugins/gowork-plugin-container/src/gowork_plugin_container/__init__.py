"""Runs containers as gowork tasks. The plugin's handler is in gowork_plugin_container.plugin."""

from gowork_plugin_container._version import __version__
from gowork_plugin_container.job import ContainerFailed, ContainerJob, ContainerResult

__all__ = ["ContainerFailed", "ContainerJob", "ContainerResult", "__version__"]
