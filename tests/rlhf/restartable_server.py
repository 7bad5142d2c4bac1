"""A completion server that hangs in its first life: `PORT FOLDER`. Keeps in FOLDER how often it was started and what it did."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import web

from rlhf.resilience.restart_server import RestartRoutes

LEAVE_AFTER_S = 0.1


def app(folder: Path) -> web.Application:
    lives = folder / "lives"
    life = len(lives.read_text()) if lives.exists() else 0
    lives.write_text("x" * (life + 1))

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        with (folder / "seen").open("a") as seen:
            seen.write(f"{life} {body['prompt']}\n")
        if life == 0:
            await asyncio.sleep(3600)
        return web.json_response({"text": body["prompt"][::-1]})

    made = web.Application()
    RestartRoutes(made, caches=[lambda: (folder / "cleared").touch()], leave_after_s=LEAVE_AFTER_S)
    made.add_routes([web.post("/v1/completions", complete)])
    return made


if __name__ == "__main__":
    web.run_app(app(Path(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), print=None)
