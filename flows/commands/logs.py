"""Verb logs: what every process of a run said, in one order. The experimenter's view."""

from __future__ import annotations

import sys

import click

from flows.printing import as_json, print_json

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--request-id", default="", help="Only what tells of this request, in whatever process.")
@click.option("--from", "from_text", metavar="TIME", help="UTC as in the logs, or +SECONDS after the run began.")
@click.option("--to", "to_text", metavar="TIME", help="The same; both ends are included.")
@click.option("--component", "components", multiple=True, help="A name (train0) or a role (train); may be given often.")
@click.option(
    "--level", type=click.Choice(LEVELS, case_sensitive=False), default=LEVELS[0], show_default=True, help="At least."
)
@click.option("--grep", "pattern", metavar="REGEX", help="Only lines in which this is found; (?i) in front ignores case.")
@as_json
def logs(
    run_id: str,
    request_id: str,
    from_text: str | None,
    to_text: str | None,
    components: tuple[str, ...],
    level: str,
    pattern: str | None,
    as_json: bool,
) -> None:
    """Merge the logs of a RUN in order of time, byte for byte as they were written."""
    from tasks.logs import LogFilter, compiled, instant, log_lines

    times = {name: instant(text, run_id) for name, text in (("from_s", from_text), ("to_s", to_text)) if text}
    wanted = LogFilter(components, request_id, level=level, pattern=compiled(pattern), **times)
    found = log_lines(run_id, wanted)
    if as_json:
        print_json([line.told() for line in found])
        return
    line = None
    for line in found:
        raw = line.raw()
        sys.stdout.buffer.write(raw if raw.endswith(b"\n") else raw + b"\n")
    if line is None:
        click.echo("no line fits", err=True)
