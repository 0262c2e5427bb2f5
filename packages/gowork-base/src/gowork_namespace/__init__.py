"""Finds out whether the name `gowork` is this project's. It lies outside of that name, which another may have taken."""

from gowork_namespace.check import ForeignGowork, check_namespace, exit_if_foreign

__all__ = ["ForeignGowork", "check_namespace", "exit_if_foreign"]
