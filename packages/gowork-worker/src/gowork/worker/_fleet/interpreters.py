"""The Python that runs a runner process: the worker's own, or that of another environment."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Self

#: Variables that tell a Python where its libraries are. Those of the worker are not for another environment.
_OF_OWN_LIBRARIES = ("PYTHONPATH", "PYTHONHOME", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python, and the variables that fit it."""

    executable: str
    #: The path of its environment; empty for the worker's own.
    environment: str = ""

    @classmethod
    def of(cls, environment: str) -> Self:
        """Returns the Python of an environment."""
        # Not resolved: a Python finds its environment by the path that it is called by.
        return cls(os.path.join(environment, "bin", "python"), environment)

    def variables(self) -> dict[str, str]:
        """Returns the environment variables of its processes, as if the environment had been activated."""
        if not self.environment:
            return dict(os.environ)
        kept = {name: value for name, value in os.environ.items() if name not in _OF_OWN_LIBRARIES}
        folders = [os.path.join(self.environment, "bin")]
        # A Python without an environment shares its folder with other programs, which stay.
        prefix = kept.get("VIRTUAL_ENV") or (sys.prefix if sys.prefix != sys.base_prefix else "")
        own = os.path.join(prefix, "bin") if prefix else None
        folders += [folder for folder in (kept.get("PATH") or os.defpath).split(os.pathsep) if folder != own]
        return {**kept, "VIRTUAL_ENV": self.environment, "PATH": os.pathsep.join(folders)}


#: The worker's own.
OWN = Interpreter(sys.executable)
