"""How weights travel through the MetaServer: each train worker puts its shard in chunks, then a manifest that makes it visible.

A key carries the version. The store never evicts, so who uploads version v deletes its own keys of version v - 2.
"""

from __future__ import annotations

import logging
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

POLL_S = 0.05
KEPT_VERSIONS = 2


class WeightStore:
    """One component's view of the store, over its own link."""

    def __init__(self, component: str, config: JobConfig):
        self._config = config
        self._session = open_session(component, "metaserver", "weights")
        self._sent: dict[int, list[str]] = {}

    def publish(self, tensors: dict[str, Tensor], rank: int, version: int) -> int:
        """Put a shard, chunk after chunk, then its manifest; returns bytes. Raises TrainEngineError (UploadWeightsError)."""
        body, size = wire.encode({"rank": rank, "version": version}, tensors), self._config.upload_chunk_bytes
        chunks = [body[start : start + size] for start in range(0, len(body), size)]
        keys = [f"{_shard(version, rank)}/{number}" for number in range(len(chunks))]
        try:
            for key, chunk in zip(keys, chunks, strict=True):
                self._ask("PUT", f"put_binary/{key}", self._config.timeout_s("upload_weights"), data=chunk)
            manifest = {"chunks": len(chunks), "bytes": len(body)}
            self._ask("PUT", f"put_json/{_shard(version, rank)}", self._config.timeout_s("upload_weights"), json=manifest)
        except requests.RequestException as error:
            raise TrainEngineError("UploadWeightsError", f"Failed to upload weights of version {version}: {error}") from error
        self._sent[version] = [f"{_shard(version, rank)}", *keys]
        self._forget(version - KEPT_VERSIONS)
        return len(body)

    def fetch(self, version: int, ranks: int) -> dict[str, Tensor]:
        """The complete weights of a version. Raises InferenceEngineError (UpdateWeightError) at the worker's own deadline."""
        start = time.monotonic()
        deadline, tensors = start + self._config.timeout_s("update_weights"), {}
        try:
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
        while not self._ask("GET", f"has_key/{key}", _left(deadline)).json()["has_key"]:
            if source in beats.offline():
                raise ValueError(f"{key} is not there, and {source} is offline")
            time.sleep(min(POLL_S, _left(deadline)))
        manifest: dict[str, Any] = self._ask("GET", f"get_json/{key}", _left(deadline)).json()
        return manifest

    def _shard_of(self, key: str, manifest: dict[str, Any], deadline: float) -> dict[str, Tensor]:
        chunks = range(manifest["chunks"])
        body = b"".join(self._ask("GET", f"get_binary/{key}/{number}", _left(deadline)).content for number in chunks)
        if len(body) != manifest["bytes"]:
            raise ValueError(f"{key} has {len(body)} bytes, its manifest says {manifest['bytes']}")
        return wire.decode(body)[1]

    def _forget(self, version: int) -> None:
        """Delete an old version's keys. One that cannot be deleted costs memory there, not this step."""
        try:
            for key in self._sent.pop(version, []):
                self._ask("DELETE", f"delete/{key}", self._config.timeout_s("upload_weights"))
        except requests.RequestException as error:
            logger.warning("weights of version %d are left in the store: %s", version, error)

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
