"""``completion``: the script by which a shell completes commands and options."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands and options in SHELL.

    \b
    bash:  topo-dask completion bash >> ~/.bashrc
    zsh:   topo-dask completion zsh >> ~/.zshrc
    fish:  topo-dask completion fish > ~/.config/fish/completions/topo-dask.fish
    """
    from . import main

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "topo-dask", "_TOPO_DASK_COMPLETE").source())
