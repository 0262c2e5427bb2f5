"""The directory in which a leader keeps its store, unless `--store` names another place."""

from __future__ import annotations

from pathlib import Path

import click
import platformdirs

from gowork.base.directories import check_not_public, make_directory


def prepared(directory: Path) -> Path:
    """Makes the directory if it is missing. Returns its absolute path.

    Raises:
        click.UsageError, click.ClickException: it can't be made, or everybody may write to it.
    """
    try:
        directory = directory.absolute()
    except FileNotFoundError:
        raise click.UsageError("--data-dir: the working directory is gone; name an absolute path") from None
    try:
        make_directory(directory)
    except OSError as error:
        raise click.ClickException(
            f"--data-dir: {directory}/gowork.db can't be written: {error.strerror or error}. The leader's user must be "
            f"able to write to {error.filename or directory}"
        ) from None
    try:
        check_not_public(directory)
    except OSError as error:
        raise click.ClickException(f"--data-dir: {error}") from None
    return directory


def own_directory() -> Path:
    """Returns the directory of this user's data.

    Raises:
        click.UsageError: the user has no home, as in many containers. "~" would then be a directory of that name.
    """
    try:
        directory = Path(platformdirs.user_data_dir("gowork", appauthor=False))
    except RuntimeError:
        # Newer versions of platformdirs raise this. Older ones return "~" as it is.
        directory = Path("~")
    if not directory.is_absolute():
        raise click.UsageError("--data-dir: this user has no home directory; name a directory, or set HOME")
    return directory
