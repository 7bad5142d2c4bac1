"""The `faultline` command.

Each verb lives in `flows/commands/` and imports what it needs when it is called, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from flows.commands.agent import agent
from flows.commands.benchmark import benchmark
from flows.commands.doctor import doctor
from flows.commands.experiment import recover, rerun, run, stop
from flows.commands.judge import compare, diagnose, reveal, score, verify_seal
from flows.commands.kept import export_command, gc, import_command, indicators, query
from flows.commands.logs import logs
from flows.commands.matrix import matrix
from flows.commands.metrics import metrics
from flows.commands.proxy import proxy
from flows.commands.runs import list_command, ps
from flows.commands.show import show
from flows.commands.stack import down, env, up
from flows.commands.wait import wait


class InOrder(click.Group):
    """Shows its verbs in the order in which they were added: that of a day's work."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, unsorted."""
        return list(self.commands)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="faultline")
def cli() -> None:
    """A reliability lab for distributed RLHF training.

    Everything is kept under FAULTLINE_HOME (default ~/.faultline). FAULTLINE_DEBUG=1 shows tracebacks.
    """


VERBS = (
    *(matrix, run, rerun, stop, list_command, show, logs, ps, query, indicators, compare, diagnose, score, reveal, verify_seal),
    *(benchmark, up, down, env, wait, doctor, recover, proxy, agent, metrics, gc, export_command, import_command),
)
for verb in VERBS:
    cli.add_command(verb)


def main() -> NoReturn:
    """Entry point. Every error is one sentence on standard error: exit code 2 for bad input, 1 for the rest."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        print(f"faultline: {error.format_message()}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        print("faultline: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as in `faultline list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get("FAULTLINE_DEBUG") == "1":
            raise
        print(f"faultline: {sentence(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError | FileNotFoundError) else 1)
    sys.exit(code if isinstance(code, int) else 0)


def sentence(error: Exception) -> str:
    """What a person reads of an error."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror.lower()}: {error.filename}" if error.filename else error.strerror.lower()
    return str(error) or type(error).__name__


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """A signal to end becomes an exception, so that every `finally` on the way out undoes its part."""
    sys.exit(128 + number)
