"""One process that relays every link: ``python -m injection.proxy --listen-api 127.0.0.1:0 --config FILE --ready FILE``.

CONFIG is a JSON array of ``{"name", "listen", "upstream"}``. When all listen, READY is written whole:
``{"api": "host:port", "dial": {name: "host:port"}}``. It ends on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from injection.proxy_api import Api
from injection.relay import split_address


async def relay(listen_api: str, links: list[dict[str, str]], tell: Callable[[dict[str, Any]], None]) -> None:
    """Relay until SIGTERM or SIGINT; ``tell`` is told once where everything listens.

    Raises OSError when an address cannot be listened on, ValueError when it is none.
    """
    api = Api()
    runner = web.AppRunner(api.application(), access_log=None)
    await runner.setup()
    host, port = split_address(listen_api)
    await web.TCPSite(runner, host, port).start()
    for link in links:
        await api.add(link)
    bound = runner.addresses[0]
    tell({"api": f"{bound[0]}:{bound[1]}", "dial": {name: proxy.listen for name, proxy in api.proxies.items()}})
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    for proxy in api.proxies.values():
        proxy.stop()
    await runner.cleanup()


def _write_whole(path: Path, state: dict[str, Any]) -> None:
    whole = path.with_suffix(".part")
    whole.write_text(json.dumps(state))
    whole.replace(path)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog=os.path.basename(__file__), description="relay TCP links")  # noqa: PTH119
    parser.add_argument("--listen-api", required=True, metavar="HOST:PORT")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE")
    parser.add_argument("--ready", required=True, type=Path, metavar="FILE")
    given = parser.parse_args()
    asyncio.run(relay(given.listen_api, json.loads(given.config.read_text()), partial(_write_whole, given.ready)))


if __name__ == "__main__":
    main()
