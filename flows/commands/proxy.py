"""Verb proxy: relays with toxics for any program, driven over Toxiproxy's HTTP API."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.option("--listen", default="127.0.0.1:8474", show_default=True, metavar="HOST:PORT", help="Where the API listens.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Proxies to begin with: a JSON array of {"name", "listen", "upstream"}.',
)
def proxy(listen: str, config: Path | None) -> None:
    """Relay TCP links, with toxics put on over Toxiproxy's HTTP API, until interrupted."""
    import asyncio

    from injection.proxy import relay

    links = json.loads(config.read_text()) if config else []
    asyncio.run(relay(listen, links, lambda state: print(f"API at http://{state['api']}", flush=True)))
