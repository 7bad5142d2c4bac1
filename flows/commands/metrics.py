"""Verb metrics: an endpoint for Prometheus."""

from __future__ import annotations

import threading

import click


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9464,
    show_default=True,
    envvar="FAULTLINE_METRICS_PORT",
    show_envvar=True,
    help="On 127.0.0.1; 0 takes a free one.",
)
def metrics(port: int) -> None:
    """Answer Prometheus with the latest figures of every run under way, until Ctrl-C.

    In its configuration: scrape_configs: [{job_name: faultline, static_configs: [{targets: ["127.0.0.1:9464"]}]}]
    """
    from tasks.endpoint import serve

    server = serve(port)
    click.echo(f"http://127.0.0.1:{server.server_port}/metrics")
    threading.Event().wait()
