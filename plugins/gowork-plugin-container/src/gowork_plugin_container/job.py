"""The payload of a task that runs a container, and its result."""

from __future__ import annotations

import msgspec

#: How many bytes of each output are kept if the task names no number, and how many it may name. Both outputs, as JSON,
#: must fit into a result.
OUTPUT_BYTES_DEFAULT = 64 << 10
OUTPUT_BYTES_MAX = 400 << 10
MEMORY_MIB_MIN = 6
CPUS_MIN = 0.01


class ContainerJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The payload: JSON with these fields. Only `image` is needed."""

    #: The image, with its tag or digest. The worker's setting must allow it.
    image: str
    #: The arguments after the image: its command, or the arguments of its entry point.
    args: list[str] = []
    #: The container's environment variables, besides those of its image.
    env: dict[str, str] = {}
    #: The container's standard input.
    stdin: str = ""
    #: Its network. The worker's setting must allow any other than "none".
    network: str = "none"
    #: How much memory it may use, in MiB, and how many processors.
    memory_mib: int = 512
    cpus: float = 1.0
    #: How many bytes of standard output, and of standard error, are kept. A longer output keeps its beginning and end.
    output_bytes_max: int = OUTPUT_BYTES_DEFAULT
    #: Whether an exit code other than 0 fails the attempt.
    check: bool = True

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: when a field is out of its bounds.
        """
        if not self.image:
            raise ValueError("image: it is empty")
        if self.memory_mib < MEMORY_MIB_MIN:
            raise ValueError(f"memory_mib: it is {self.memory_mib}; give at least {MEMORY_MIB_MIN}")
        if not self.cpus >= CPUS_MIN:
            raise ValueError(f"cpus: it is {self.cpus}; give at least {CPUS_MIN}")
        if not 0 <= self.output_bytes_max <= OUTPUT_BYTES_MAX:
            raise ValueError(f"output_bytes_max: it is {self.output_bytes_max}; give 0 to {OUTPUT_BYTES_MAX}")
        if any("\0" in text for text in [*self.args, *self.env, *self.env.values()]):
            raise ValueError("args and env must not have NUL characters")
        if any("=" in name or not name for name in self.env):
            raise ValueError("env: names must have no equals sign and not be empty")


class ContainerResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result. Bytes that are not UTF-8 are replaced."""

    #: The exit code of the container's first process; 128 and the signal's number if a signal ended it.
    exit_code: int
    stdout: str
    stderr: str
    #: Whether a part of the output was left out.
    stdout_truncated: bool
    stderr_truncated: bool
    #: How long the container ran, with its start and a pull of its image.
    seconds: float


class ContainerFailed(Exception):
    """The container ended with an exit code other than 0."""

    def __init__(self, result: ContainerResult) -> None:
        text = f"exit code {result.exit_code}"
        if result.exit_code == 137:
            text += ": it was killed, as for more memory than memory_mib"
        # A failure's message has at most 4 KiB. The ends of the outputs are kept, because errors are mostly there.
        for name, output in (("stderr", result.stderr), ("stdout", result.stdout)):
            if output.strip():
                text += f"\n{name}: {output.strip()[-1500:]}"
        super().__init__(text)
        self.result = result
