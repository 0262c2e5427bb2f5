"""What the worker's environment variables say about containers: which images, which engine, and how much of it."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

#: The images that may be run: patterns, separated by commas, spaces or lines.
IMAGES_VARIABLE = "GOWORK_CONTAINER_IMAGES"
#: The engine's command: a name on PATH, or a path. Without it: podman, or else docker.
ENGINE_VARIABLE = "GOWORK_CONTAINER_ENGINE"
#: The networks that a task may ask for besides "none".
NETWORKS_VARIABLE = "GOWORK_CONTAINER_NETWORKS"
#: When an image is pulled: missing, never or always.
PULL_VARIABLE = "GOWORK_CONTAINER_PULL"
#: How much memory, in MiB, and how many processors a task may ask for.
MEMORY_VARIABLE = "GOWORK_CONTAINER_MEMORY_MIB_MAX"
CPUS_VARIABLE = "GOWORK_CONTAINER_CPUS_MAX"
PATTERNS_MAX = 1000
IMAGE_CHARS_MAX = 500

_PULLS = ("missing", "never", "always")
#: An image's name with its tag or digest. It begins with a letter or digit, so that it is never taken as an option.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings, checked."""

    #: Images by their whole names; repositories, of which any tag is allowed; and beginnings that end with a slash.
    images: frozenset[str]
    repositories: frozenset[str]
    folders: tuple[str, ...]
    engine: str
    networks: frozenset[str]
    pull: str
    memory_mib_max: int
    cpus_max: float

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """Reads them.

        Raises:
            ValueError: when one of them can't be read. The text names the variable.
        """
        patterns = _words(environment, IMAGES_VARIABLE)
        for pattern in patterns:
            has_star = pattern.endswith("*")
            if not _IMAGE.fullmatch(pattern.removesuffix("*")) or (has_star and pattern[-2] not in ":/"):
                raise ValueError(
                    f"{IMAGES_VARIABLE}: {pattern!r:.100} is no pattern; write an image such as quay.io/jobs/resize:1, "
                    "a repository with :* for all its tags, or a folder with /* for all images in it"
                )
        networks = _words(environment, NETWORKS_VARIABLE)
        for network in networks:
            if not _NETWORK.fullmatch(network):
                raise ValueError(f"{NETWORKS_VARIABLE}: {network!r:.100} is no name of a network")
        pull = environment.get(PULL_VARIABLE) or "missing"
        if pull not in _PULLS:
            raise ValueError(f"{PULL_VARIABLE}: it is {pull!r:.100}; write one of {', '.join(_PULLS)}")
        return cls(
            images=frozenset(pattern for pattern in patterns if not pattern.endswith("*")),
            repositories=frozenset(pattern.removesuffix(":*") for pattern in patterns if pattern.endswith(":*")),
            folders=tuple(pattern.removesuffix("*") for pattern in patterns if pattern.endswith("/*")),
            engine=_absolute(environment.get(ENGINE_VARIABLE) or _engine_here()),
            networks=frozenset({"none", *networks}),
            pull=pull,
            memory_mib_max=int(_number(environment, MEMORY_VARIABLE, 4096, 1 << 30)),
            cpus_max=_number(environment, CPUS_VARIABLE, 4, 10_000),
        )

    def check(self, image: str, network: str, memory_mib: int, cpus: float) -> None:
        """Checks what a task asks for.

        Raises:
            ValueError: when it is not allowed on this worker. The text names the field and the setting.
        """
        if not self._allows(image):
            raise ValueError(f"image: {image} is not allowed on this worker; {IMAGES_VARIABLE} has the images that are")
        if network not in self.networks:
            raise ValueError(
                f"network: {network!r} is not allowed on this worker; {NETWORKS_VARIABLE} has those that are"
            )
        if memory_mib > self.memory_mib_max:
            raise ValueError(
                f"memory_mib: it is {memory_mib}; this worker allows {self.memory_mib_max} ({MEMORY_VARIABLE})"
            )
        if cpus > self.cpus_max:
            raise ValueError(f"cpus: it is {cpus:g}; this worker allows at most {self.cpus_max:g} ({CPUS_VARIABLE})")

    def _allows(self, image: str) -> bool:
        if not _IMAGE.fullmatch(image) or len(image) > IMAGE_CHARS_MAX or ".." in image:
            return False
        # A tag is what follows a colon behind the last slash: in front of it, a colon belongs to a port.
        name, _, _ = image.partition("@")
        folder, slash, last = name.rpartition("/")
        repository = f"{folder}{slash}{last.partition(':')[0]}"
        return image in self.images or repository in self.repositories or image.startswith(self.folders)


def _words(environment: Mapping[str, str], variable: str) -> list[str]:
    words = environment.get(variable, "").replace(",", " ").split()
    if len(words) > PATTERNS_MAX:
        raise ValueError(f"{variable}: it has {len(words)} entries; at most {PATTERNS_MAX} are read")
    return words


def _number(environment: Mapping[str, str], variable: str, default: float, most: float) -> float:
    text = environment.get(variable) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    # Written so that NaN is refused too.
    if not 0 < number <= most:
        raise ValueError(f"{variable}: it is {text!r:.100}; write a number above 0 and up to {most:g}")
    return number


def _absolute(engine: str) -> str:
    """Returns the command so that it is found from whatever directory."""
    return os.path.abspath(engine) if os.sep in engine else engine


def _engine_here() -> str:
    return "docker" if shutil.which("podman") is None and shutil.which("docker") is not None else "podman"
