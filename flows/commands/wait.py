"""Verb wait: until a server is ready, telling what each attempt saw."""

from __future__ import annotations

from dataclasses import asdict

import click

from flows.printing import as_json, print_json


@click.command()
@click.argument("url")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Seconds in all.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.01),
    default=5.0,
    show_default=True,
    help="Seconds between attempts.",
)
@click.option("--live", is_flag=True, help="A bare address: ask whether it answers, not whether it is ready.")
@as_json
def wait(url: str, timeout_s: float, interval_s: float, live: bool, as_json: bool) -> int:
    """Wait until the server at URL is ready.

    A bare address is asked for /api/v1/status, with --live for /api/v1/health; a URL with a path is asked as it is.
    Exit code 0: ready. 1: not within the time.
    """
    from rlhf.resilience.readiness import Sighting, endpoint, wait_until_ready

    def tell(seen: Sighting) -> None:
        click.echo(f"attempt {seen.attempt}: {seen.saw} (waited {seen.waited_s:.1f} s)")

    asked = endpoint(url, live=live)
    if as_json:
        done = wait_until_ready(asked, timeout_s, interval_s)
        print_json(asdict(done))
    else:
        click.echo(f"waiting for {asked}, {timeout_s:g} s at most")
        done = wait_until_ready(asked, timeout_s, interval_s, told=tell)
        click.echo(f"{'ready' if done.ready else 'not ready'} after {done.total_s:.1f} s")
    return 0 if done.ready else 1
