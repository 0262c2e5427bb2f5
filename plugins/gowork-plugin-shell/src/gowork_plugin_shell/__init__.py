"""Runs commands as gowork tasks: the plugin is gowork_plugin_shell.plugin."""

from gowork_plugin_shell._version import __version__
from gowork_plugin_shell.job import CommandFailed, ShellJob, ShellResult

__all__ = ["CommandFailed", "ShellJob", "ShellResult", "__version__"]
