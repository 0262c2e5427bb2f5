"""The error that a checker raises."""

from __future__ import annotations


class Violation(AssertionError):
    """A checker's finding: the checker's name and what it saw."""

    def __init__(self, checker: str, *what: object) -> None:
        super().__init__(f"{checker}: {' '.join(map(str, what))}")
        self.checker = checker
