"""Where ranks of torch.distributed meet: a store at one address alone. Left to itself torch listens on every interface."""

from __future__ import annotations

import socket
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore


def open_store(address: str, port: int = 0, timeout_s: float = 300.0) -> TCPStore:
    """The meeting point, at `address` and a free port of it if none is given. Raises OSError when it cannot listen there."""
    listener = socket.create_server((address, port))
    port = listener.getsockname()[1]
    timeout, descriptor = timedelta(seconds=timeout_s), listener.detach()
    return TCPStore(address, port, is_master=True, wait_for_workers=False, timeout=timeout, master_listen_fd=descriptor)


def find_store(address: str, port: int, timeout_s: float) -> TCPStore:
    """The meeting point that another rank has opened, or will have within the time-out. Raises torch's DistError."""
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout_s))
