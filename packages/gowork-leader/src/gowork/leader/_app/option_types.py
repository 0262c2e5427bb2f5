"""The command of `gowork-leader` as click's: how it reads its options, and which values it refuses."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import click

from gowork.base.beginnings import EXIT_INTERRUPTED
from gowork.base.channels import AddressError, parse_address
from gowork.base.variables import hint_of
from gowork.leader._app.advertised import advertised_host
from gowork.proto.limits import ID_BYTES_MAX, RETAIN_DAYS_MAX, RETAIN_TASKS_MAX

#: What CloudWatch takes as the value of a dimension.
_DIMENSION = re.compile("[!-9;-~][!-~]{0,254}")


class LeaderCommand(click.Command):
    """A command whose errors name the variable that has a bad value.

    When it is interrupted before it serves, it ends with 130 and prints nothing.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            error.param_hint = hint_of(ctx, error.param) or error.param_hint
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


class _Days(click.FloatRange):
    """A number of days. Click's own range lets a NaN pass."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        days = float(super().convert(value, parameter, context))
        if math.isnan(days):
            self.fail(f"{value} is not a number of days.", parameter, context)
        return days


DAYS = _Days(min=0, max=RETAIN_DAYS_MAX)
TASKS = click.IntRange(min=0, max=RETAIN_TASKS_MAX)


def check_address(context: click.Context, parameter: click.Parameter, address: str) -> str:
    """Refuses what is not HOST:PORT."""
    try:
        parse_address(address)
    except AddressError as error:
        raise click.BadParameter(str(error)) from None
    return address


def check_name(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """Refuses a name that would garble lists and logs."""
    if name is not None and not (name.strip() and name.isprintable() and len(name.encode()) <= ID_BYTES_MAX):
        raise click.BadParameter(f"{name[:80]!r}: a name is printable text of at most {ID_BYTES_MAX} bytes")
    return name


def check_cluster(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """Refuses a name that CloudWatch would not take."""
    if name is not None and not _DIMENSION.fullmatch(name):
        raise click.BadParameter(f"{name[:80]!r}: a name is 1 to 255 visible characters of ASCII, and no colon first")
    return name


def check_host(context: click.Context, parameter: click.Parameter, host: str | None) -> str:
    """Returns the host that is to be advertised, without brackets. It refuses one that nobody reaches."""
    try:
        return advertised_host(host or "")
    except AddressError as error:
        raise click.BadParameter(str(error)) from None


def not_empty(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuses an option that is given and says nothing."""
    # As from a variable of a shell that is not set. To take it for "not given" would let everybody in.
    if value is not None and not value.strip():
        raise click.BadParameter("is empty; leave the option out, or give a path")
    return value


def read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Takes defaults of options from a TOML file, where their names have underscores."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from None
    # --config itself, --version and --help are left out, because they make no sense in a file.
    options = {option.name: option for option in context.command.params if option.expose_value}
    known = set(options)
    unknown = sorted(set(values) - known)
    if unknown:
        raise click.BadParameter(
            f"{path} has the unknown name {unknown[0]!r}; known are {', '.join(sorted(n for n in known if n))}"
        )
    for name, value in values.items():
        # Click would turn any value into text.
        numeric = isinstance(options[name].type, click.types.IntParamType | click.types.FloatParamType)
        if not isinstance(value, str | bool) and not (numeric and isinstance(value, int | float)):
            wanted = "a number" if numeric else "a string, or true or false"
            raise click.BadParameter(f"{path}: {name} must be {wanted}; it is {value!r}")
    context.default_map = {**(context.default_map or {}), **values}
    return path
