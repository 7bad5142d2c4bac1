"""Which names of Ray and torch this application needs, and whether the installed versions have them.

Asked before anything is started: an interface that a version lacks shows otherwise as an AttributeError in some replica.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version

from rlhf.errors import InferenceEngineError

#: Module -> what is used of it. The private one is replaced in each replica (see `rlhf/serving/replica.py`).
NEEDED = {
    "ray.serve": ("run_many", "start", "status", "delete", "shutdown", "deployment", "get_replica_context"),
    "ray.serve._private.replica": ("add_port_to_grpc_server",),
    "torch.distributed": ("TCPStore", "PrefixStore", "DistError", "init_process_group"),
}


def require(module: str, name: str) -> None:
    """Raises InferenceEngineError (InitializeError) naming the version when the installed package has no `module.name`."""
    package = module.partition(".")[0]
    installed = f"the installed {package} {version(package)}"
    try:
        found = hasattr(importlib.import_module(module), name)
    except ImportError as error:
        raise InferenceEngineError("InitializeError", f"{installed} cannot import {module}: {error}") from error
    if not found:
        raise InferenceEngineError("InitializeError", f"{installed} has no {module}.{name}")


def require_all() -> None:
    """`require` everything needed."""
    for module, names in NEEDED.items():
        for name in names:
            require(module, name)
