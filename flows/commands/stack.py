"""Verbs of the embedded stack: up, down, env."""

from __future__ import annotations

import shlex

import click

from flows.printing import as_json, print_json


@click.command()
def up() -> None:
    """Start the Prefect server, the deployments and a worker."""
    from flows.stack import up as start

    stack, started = start(click.echo)
    click.echo(f"{'up' if started else 'already up'}: {stack.ui_url}")
    click.echo('for Prefect\'s own commands: eval "$(faultline env)"')


@click.command()
def down() -> None:
    """Cancel what runs and end the stack."""
    from flows.stack import down as end

    ended = end()
    click.echo(f"ended: {', '.join(ended)}" if ended else "nothing was up")


@click.command()
@as_json
def env(as_json: bool) -> None:
    """Print the exports by which `prefect` reaches this stack."""
    from flows.stack import StackError, exports, load_stack

    stack = load_stack()
    if stack is None:
        raise StackError("no stack was ever started in this home; run: faultline up")
    words = exports(stack.port)
    if as_json:
        print_json(words)
        return
    for name, value in words.items():
        click.echo(f"export {name}={shlex.quote(value)}")
