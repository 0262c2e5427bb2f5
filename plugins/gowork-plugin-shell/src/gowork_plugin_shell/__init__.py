"""Runs commands as gowork tasks. The plugin's handler is in gowork_plugin_shell.plugin."""

from gowork_plugin_shell._version import __version__
from gowork_plugin_shell.job import CommandFailed, ShellJob, ShellResult

__all__ = ["CommandFailed", "ShellJob", "ShellResult", "__version__"]
