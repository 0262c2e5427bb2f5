"""The options that every command takes: the leader to ask, and the form of the answer.

They may stand before or after the command's name. If an option is given twice, the last one counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import click
from msgspec.structs import replace

from gowork.base.certificates import CertificateError
from gowork.base.channels import AddressError
from gowork.base.tls_files import TlsFiles, caller_files
from gowork.client import Client

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

#: How long a command tries after no leader answered at any address, in seconds. It is short, because people wait.
_QUICK_PATIENCE_S = 1.0
#: The timeout of a call, in seconds.
_TIMEOUT_S = 30.0
#: The timeout of a call that is soon made again, in seconds.
_WATCHING_TIMEOUT_S = 5.0


class OutputFormat(StrEnum):
    """The form of a command's answer."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


@dataclass(slots=True)
class CommonOptions:
    """The options that all commands share."""

    leader: str | None = None
    output: OutputFormat = OutputFormat.TABLE
    #: The file of keys; None for that of GOWORK_KEYS.
    keys: str | None = None
    #: {name of a field of TlsFiles: the option's value}; what is missing is taken from the environment.
    tls: dict[str, Any] = field(default_factory=dict)

    @property
    def tls_files(self) -> TlsFiles | None:
        """The files that options name, and for what they leave out, the environment; None: all from the environment."""
        return replace(caller_files(), **self.tls) if self.tls else None

    def client(self) -> Client:
        """Makes a client that gives up soon when no leader answers.

        Raises:
            AddressError: when the address is not HOST:PORT.
        """
        return self._connected(patience=_QUICK_PATIENCE_S)

    def watching_client(self) -> Client:
        """Makes a client for calls that are soon made again. It gives up soon also when a leader hangs.

        Raises:
            AddressError: when the address is not HOST:PORT.
        """
        return self._connected(timeout=_WATCHING_TIMEOUT_S, patience=_QUICK_PATIENCE_S)

    def patient_client(self) -> Client:
        """Checks that a leader answers, and makes a client for long work, whose calls go on when the leader restarts.

        Raises:
            AddressError: when the address is not HOST:PORT.
            LeaderUnreachable: when no leader answers.
        """
        with self.client() as quick:
            # Who is bound to some tasks may ask this, too.
            quick.stats()
        return self._connected()

    def waiting_client(self) -> Client:
        """Makes a client for a wait of any length. Call it when a leader has just answered.

        Raises:
            AddressError: when the address is not HOST:PORT.
        """
        return self._connected()

    def _connected(self, *, timeout: float = _TIMEOUT_S, patience: float | None = None) -> Client:
        try:
            return Client(self.leader, timeout=timeout, patience=patience, keys=self.keys, tls=self.tls_files)
        except AddressError as error:
            where = "--leader" if self.leader is not None else "GOWORK_LEADER"
            raise AddressError(f"{where}: {error}") from None
        except CertificateError as error:
            raise click.UsageError(str(error)) from None


#: (name after --tls-, what it takes, help)
_TLS_OPTIONS = (
    ("ca", "FILE", "Call leaders by TLS; the authorities of their certificates (PEM).  [default: GOWORK_TLS_CA]"),
    ("cert", "FILE", "The own certificate for leaders that ask for one (PEM).  [default: GOWORK_TLS_CERT]"),
    ("key", "FILE", "Its key (PEM).  [default: GOWORK_TLS_KEY]"),
    ("name", "NAME", "The name that leaders' certificates have, if not their address.  [default: GOWORK_TLS_NAME]"),
)


def common_options(command: FunctionT) -> FunctionT:
    """Gives a command the options for all, such as --leader and --output. Their values are in its CommonOptions."""
    leader = click.option(
        "--leader",
        metavar="HOST:PORT[,…]",
        expose_value=False,
        callback=_keep_leader,
        help="The leader's address. If you give several, joined by commas, the one that leads is found.  [default: "
        "GOWORK_LEADER, else 127.0.0.1:50052]",
    )
    output = click.option(
        "-o",
        "--output",
        type=click.Choice([str(form) for form in OutputFormat]),
        expose_value=False,
        callback=_keep_output,
        help="The form of the answer: a table for people, or JSON for programs, with all fields.  [default: "
        "GOWORK_OUTPUT, else table]",
    )
    keys = click.option(
        "--keys",
        metavar="FILE",
        expose_value=False,
        callback=_keep_keys,
        help="Encrypt payloads with the keys of this file, and decrypt what tasks hold. `gowork keys new` makes one.  "
        "[default: GOWORK_KEYS, else nothing is encrypted]",
    )
    command = click.option(
        "--insecure",
        is_flag=True,
        default=None,
        expose_value=False,
        callback=_keep_tls,
        help="Send the token to another machine without TLS, too.  [default: GOWORK_INSECURE]",
    )(command)
    command = click.option(
        "--token-file",
        metavar="FILE",
        expose_value=False,
        callback=_keep_tls,
        help="Show leaders the token in this file. `gowork tokens new` makes one.  [default: GOWORK_TOKEN_FILE]",
    )(command)
    for name, metavar, words in reversed(_TLS_OPTIONS):
        command = click.option(f"--tls-{name}", metavar=metavar, expose_value=False, callback=_keep_tls, help=words)(
            command
        )
    return leader(keys(output(command)))


#: Passes the CommonOptions to a command as its first argument.
pass_common = click.make_pass_decorator(CommonOptions, ensure=True)


def _keep_leader(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(CommonOptions).leader = value


def _keep_keys(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(CommonOptions).keys = value


def _keep_tls(context: click.Context, parameter: click.Parameter, value: str | bool | None) -> None:
    if value is not None:
        name = str(parameter.name).removeprefix("tls_").removesuffix("_file")
        context.ensure_object(CommonOptions).tls[name] = value


def _keep_output(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    common = context.ensure_object(CommonOptions)
    if value is not None:
        common.output = OutputFormat(value)
    elif context.parent is None and (environment := os.environ.get("GOWORK_OUTPUT")):
        try:
            common.output = OutputFormat(environment)
        except ValueError:
            raise click.UsageError(f"GOWORK_OUTPUT={environment!r} is none of table, json and jsonl") from None
