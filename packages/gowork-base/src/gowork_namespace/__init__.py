"""Checks that the name `gowork` is this project's. It is a package of its own because `gowork` may be another's."""

from gowork_namespace.check import ForeignGowork, check_namespace, exit_if_foreign

__all__ = ["ForeignGowork", "check_namespace", "exit_if_foreign"]
