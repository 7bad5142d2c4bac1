"""What the sampler's further sources look at, without a job: a link a process, a clock, a page of Ray's size, a folder."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

from telemetry.clock import serve, timed_socket

#: As the page of an agent of Ray 2.60 with three actors was.
PAGE_BYTES = 300_000
_KEPT: list[socket.socket] = []


def job_around(folder: Path, components: list[str], host: str) -> dict[str, object]:
    """Make it; it lives as long as this process. The options of a sampler that say where it is."""
    store = socket.create_server(("127.0.0.1", 0), backlog=len(components))
    where = f"127.0.0.1:{store.getsockname()[1]}"
    bind = {name: f"127.0.1.{number}" for number, name in enumerate(components, start=1)}
    table = {
        "host": dict.fromkeys(components, host),
        "bind": bind,
        "listen": {"metaserver": {"weights": where}},
        "dial": {f"{name}>metaserver:weights": where for name in components},
    }
    (folder / "addresses.json").write_text(json.dumps(table))
    clock, agent = timed_socket(), socket.create_server(("127.0.0.1", 0))
    clock.bind(("127.0.0.1", 0))
    (folder / "session_1").mkdir()
    (folder / "session_1/metrics_export_port_0").write_text(str(agent.getsockname()[1]))
    connections = [socket.create_connection(store.getsockname(), source_address=(address, 0)) for address in bind.values()]
    _KEPT.extend((store, clock, agent, *connections))
    threading.Thread(target=serve, args=(clock,), daemon=True).start()
    threading.Thread(target=_serve_page, args=(agent,), daemon=True).start()
    return {
        "addresses": str(folder / "addresses.json"),
        "folders": [str(folder)],
        "checkpoints": str(folder),
        "clocks": {host: f"127.0.0.1:{clock.getsockname()[1]}"},
        "ray": {host: [str(folder), "127.0.0.1"]},
    }


def _serve_page(agent: socket.socket) -> None:
    ours = b'ray_object_store_used_memory{Component="raylet",NodeAddress="127.0.0.1"} 1.0\n'
    other = b'ray_other_bucket{Component="raylet",NodeAddress="127.0.0.1",le="0.1"} 5.0\n'
    page = b"HTTP/1.0 200 OK\r\n\r\n" + ours + other * (PAGE_BYTES // len(other))
    while True:
        connection, _ = agent.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(page)
