"""The command `gowork completion` prints a script that completes commands in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    short_help="Print a script that completes commands in your shell.",
    epilog="""\b
Examples:
  eval "$(gowork completion bash)"        # in ~/.bashrc
  eval "$(gowork completion zsh)"         # in ~/.zshrc
  gowork completion fish > ~/.config/fish/completions/gowork.fish""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes gowork's commands, options, task ids and handlers in your shell."""
    kind = get_completion_class(shell)
    if kind is None:  # pragma: no cover - click knows these three
        raise click.UsageError(f"no completion for {shell}")
    root = context.find_root()
    click.echo(kind(root.command, {}, "gowork", "_GOWORK_COMPLETE").source())
