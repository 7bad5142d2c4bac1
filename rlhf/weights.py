"""How weights travel through the MetaServer: each train worker puts its shard in chunks, then a manifest that makes it visible.

A key carries the version. The store never evicts, so who uploads version v deletes its own keys of version v - 2.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import requests
from torch import Tensor

from rlhf import beats, wire
from rlhf.config import JobConfig
from rlhf.errors import InferenceEngineError, TrainEngineError
from rlhf.links import open_session
from storage.records import Role, component_name

logger = logging.getLogger(__name__)

#: How long the store may hold an answer back while a shard is not there: after that who asks looks whether its source lives.
ASK_S = 0.25
KEPT_VERSIONS = 2


class WeightStore:
    """One component's view of the store, over its own link."""

    def __init__(self, component: str, config: JobConfig):
        self._config = config
        self._session = open_session(component, "metaserver", "weights")

    def publish(self, tensors: dict[str, Tensor], rank: int, version: int, within_s: float = math.inf) -> int:
        """Put a shard, chunk after chunk, then its manifest; returns bytes. Raises TrainEngineError (UploadWeightsError).

        Without `within_s` nothing bounds the whole: a link that moves a little now and then trips no time-out of a socket.
        """
        start, put = time.monotonic(), 0
        body, size = wire.encode({"rank": rank, "version": version}, tensors), self._config.upload_chunk_bytes
        chunks = [body[start : start + size] for start in range(0, len(body), size)]
        key = _shard(version, rank)
        try:
            with beats.unless_offline("metaserver", self._session):
                while put < len(chunks):
                    self._put(f"put_binary/{key}/{put}", start + within_s, data=chunks[put])
                    put += 1
                self._put(f"put_json/{key}", start + within_s, json={"chunks": len(chunks), "bytes": len(body)})
        except (requests.Timeout, TimeoutError) as error:
            text = f"gave up after {time.monotonic() - start:.1f}s, {put} of {len(chunks)} chunks are there"
            raise TrainEngineError("UploadWeightsError", f"Failed to upload weights of version {version}: {text}") from error
        except requests.RequestException as error:
            raise TrainEngineError("UploadWeightsError", f"Failed to upload weights of version {version}: {error}") from error
        self._forget(rank, version - KEPT_VERSIONS)
        return len(body)

    def fetch(self, version: int, ranks: int, within_s: float = 0.0) -> dict[str, Tensor]:
        """The complete weights of a version. Raises InferenceEngineError (UpdateWeightError) at the worker's own deadline."""
        start = time.monotonic()
        deadline, tensors = start + (within_s or self._config.timeout_s("update_weights")), {}
        try:
            with beats.unless_offline("metaserver", self._session):
                for rank in range(ranks):
                    manifest = self._await_manifest(_shard(version, rank), component_name(Role.TRAIN, rank), deadline)
                    tensors.update(self._shard_of(_shard(version, rank), manifest, deadline))
        except (requests.Timeout, TimeoutError) as error:
            text = f"timed out after {time.monotonic() - start:.1f}s waiting for weights of version {version}"
            raise InferenceEngineError("UpdateWeightError", f"Failed to update weights: {text}") from error
        except (requests.RequestException, ValueError) as error:
            raise InferenceEngineError("UpdateWeightError", f"Failed to update weights: {error}") from error
        return tensors

    def _await_manifest(self, key: str, source: str, deadline: float) -> dict[str, Any]:
        start = time.monotonic()
        while not self._ask("GET", f"has_key/{key}?wait_s={ASK_S}", _left(deadline)).json()["has_key"]:
            if source in beats.offline(start):
                raise ValueError(f"{key} is not there, and {source} is offline")
        manifest: dict[str, Any] = self._ask("GET", f"get_json/{key}", _left(deadline)).json()
        return manifest

    def _shard_of(self, key: str, manifest: dict[str, Any], deadline: float) -> dict[str, Tensor]:
        chunks = range(manifest["chunks"])
        body = b"".join(self._ask("GET", f"get_binary/{key}/{number}", _left(deadline)).content for number in chunks)
        if len(body) != manifest["bytes"]:
            raise ValueError(f"{key} has {len(body)} bytes, its manifest says {manifest['bytes']}")
        return wire.decode(body)[1]

    def _forget(self, rank: int, version: int) -> None:
        """Delete what was put of an old version, by this process or one before it; a new store has nothing of it.

        If that fails it costs memory there, not this step.
        """
        url, timeout_s = f"http://metaserver/v1/delete/{_shard(version, rank)}", self._config.timeout_s("upload_weights")
        try:
            if version >= 0:
                self._session.delete(url, timeout=timeout_s)
        except requests.RequestException as error:
            logger.warning("weights of version %d are left in the store: %s", version, error)

    def _put(self, path: str, deadline: float, **content: Any) -> None:
        self._ask("PUT", path, min(self._config.timeout_s("upload_weights"), _left(deadline)), **content)

    def _ask(self, method: str, path: str, timeout_s: float, **content: Any) -> requests.Response:
        response = self._session.request(method, f"http://metaserver/v1/{path}", timeout=timeout_s, **content)
        if not response.ok:
            raise requests.HTTPError(f"HTTP {response.status_code}: {response.text}")
        return response


def _shard(version: int, rank: int) -> str:
    return f"v{version}/shard{rank}"


def _left(deadline: float) -> float:
    """Seconds until the deadline. Raises TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
