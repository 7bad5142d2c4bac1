"""The entry of the application: HTTP in, the ranks behind it. It gives out seats, forms the group and forms it anew.

It is a deployment like the ranks, or an object in the process of a job's component `serving` (`rlhf/serving/component.py`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from starlette.requests import Request
from starlette.responses import Response

from rlhf import wire
from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.errors import EngineError, InferenceEngineError
from rlhf.meeting import open_store
from rlhf.serving import protocol
from rlhf.serving.config import ServingConfig
from rlhf.serving.failures import cause_of, sentence
from rlhf.serving.replica import keep_home
from rlhf.serving.seats import give_out

logger = logging.getLogger(__name__)

OK, BAD_REQUEST, NOT_FOUND, TOO_LATE, UNAVAILABLE = 200, 400, 404, 408, 503


class BadRequestError(Exception):
    """The request makes no sense; the text says why."""


@dataclass(frozen=True)
class Answer:
    """Of the entry, whoever carries it."""

    status: int
    content: bytes
    kind: str = "application/json"


#: Reads a request's body. Raises BadRequestError when it is larger than the limit.
Read = Callable[[], Awaitable[bytes]]


class Entry:
    """POST /generate, PUT /weights, GET /health. One request at a time: the ranks exchange with each other in one order."""

    def __init__(self, config: JobConfig, serving: ServingConfig, *ranks: Any):
        keep_home()
        self._config, self._serving, self._ranks = config, serving, ranks
        self._address = ray.util.get_node_ip_address()
        self._store = open_store(self._address)
        self._groups = 0
        self._members: list[dict[str, Any]] = []
        self._silent: set[int] = set()
        self._one = asyncio.Lock()
        self._routes: dict[tuple[str, str], Callable[[str, bytes], Awaitable[Answer]]] = {
            ("POST", protocol.GENERATE): self._generate,
            ("PUT", protocol.WEIGHTS): self._load,
            ("GET", protocol.HEALTH): self._health,
        }

    async def __call__(self, request: Request) -> Response:
        """As a deployment: what Serve's proxy passes on."""

        async def read() -> bytes:
            return await body_of(request.stream())

        answer = await self.answer(request.method, request.url.path, request.headers.get("content-type", ""), read)
        return Response(answer.content, answer.status, media_type=answer.kind)

    async def answer(self, method: str, path: str, kind: str, read: Read) -> Answer:
        """Answer, always within `request_s`: 400 for a request that makes no sense, 408 for one that does not arrive, else 503
        with the first cause.
        """
        route = self._routes.get((method, path))
        if route is None:
            known = ", ".join(" ".join(pair) for pair in self._routes)
            return _told(NOT_FOUND, f"no {method} {path}; there is {known}")
        body: bytes | None = None
        try:
            async with asyncio.timeout(self._serving.request_s):
                body = await read()
                async with self._one:
                    return await route(kind, body)
        except BadRequestError as error:
            return _told(BAD_REQUEST, str(error))
        except TimeoutError:
            if body is None:  # the ranks have nothing to do with it
                return _told(TOO_LATE, f"body not read within {self._serving.request_s:g} s")
            self._members = []
            return _told(UNAVAILABLE, self._late())
        except Exception as error:
            # Whatever went wrong behind us, the group is not to be trusted; the next request forms a new one.
            self._members = []
            logger.exception("request failed")
            return _told(UNAVAILABLE, sentence(error))

    async def _generate(self, kind: str, body: bytes) -> Answer:
        try:
            ask = protocol.read(kind, body, self._config)
        except ValueError as error:
            raise BadRequestError(str(error)) from error
        batch, version = await self._sample(ask)
        return Answer(OK, *protocol.write(ask, batch, version, self._config))

    async def _sample(self, ask: protocol.Ask) -> tuple[DistributedBatchMemory, int]:
        """Samples of all ranks, each of its share of the prompts, in the order of the prompts; and the weights' version."""
        members = await self._formed()
        meta = {"step": ask.step, "stream": ask.stream}
        shares = [(wire.encode(meta, share.state()),) for share in ask.prompts.split(len(members))]
        decoded = [wire.decode(answer) for answer in await self._all("generate", shares)]
        return DistributedBatchMemory.concat([DistributedBatchMemory(part) for _, part in decoded]), decoded[0][0]["version"]

    async def _load(self, _: str, body: bytes) -> Answer:
        """Weights go to rank 0, which refuses them whole or takes them, and from there to the others; held ones go nowhere."""
        try:
            version = protocol.version_of(wire.decode(body)[0])
        except ValueError as error:
            raise BadRequestError(str(error)) from error
        members = await self._formed()
        if any(member["version"] != version for member in members):
            await self._spread(body, members)
        return _json({"version": members[0]["version"]})

    async def _spread(self, body: bytes, members: list[dict[str, Any]]) -> None:
        try:
            await self._ranks[0].load.remote(body)
        except Exception as error:
            if isinstance(cause_of(error), EngineError):
                raise BadRequestError(sentence(error)) from error
            raise
        versions = await self._all("spread", [(0,)] * len(members))
        for member, version in zip(members, versions, strict=True):
            member["version"] = version

    async def members(self) -> list[dict[str, Any]]:
        """Rank, device, version and pid of each replica, by rank. Raises InferenceEngineError with what keeps them apart."""
        try:
            async with asyncio.timeout(self._serving.request_s), self._one:
                return await self._formed()
        except TimeoutError as error:
            raise InferenceEngineError("InitializeError", self._late()) from error
        except Exception as error:
            raise InferenceEngineError("InitializeError", sentence(error)) from error

    async def _health(self, _: str, __: bytes) -> Answer:
        """Who is who, forming the group if there is none."""
        return _json({"members": await self._formed(), "groups": self._groups})

    async def _formed(self) -> list[dict[str, Any]]:
        """The members, by rank; a group is formed if there is none: seats by where the replicas run."""
        if not self._members:
            berths = await self._all("berth", [()] * len(self._ranks))
            self._groups += 1
            meeting, name = (self._address, self._store.port), f"group{self._groups}"
            seats = give_out(berths, self._config.device)
            self._members = await self._all("form", [(seat, meeting, name) for seat in seats])
        return self._members

    def _late(self) -> str:
        silent = ", ".join(str(rank) for rank in sorted(self._silent))
        return f"no answer of rank {silent or 'any'} within {self._serving.request_s:g} s"

    async def _all(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The method on every rank at once; the first error is raised when it comes, whoever still waits for the others."""
        self._silent = silent = set(range(len(self._ranks)))

        async def call(number: int, given: tuple[Any, ...]) -> Any:
            answer = await getattr(self._ranks[number], method).remote(*given)
            silent.discard(number)
            return answer

        return list(await asyncio.gather(*(call(number, given) for number, given in enumerate(arguments))))


async def body_of(stream: AsyncIterable[bytes]) -> bytes:
    """A body from its parts. Raises BadRequestError when it is larger than the limit."""
    parts, size = [], 0
    async for part in stream:
        size += len(part)
        if size > protocol.BODY_LIMIT_BYTES:
            raise BadRequestError(f"a request has at most {protocol.BODY_LIMIT_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _json(values: dict[str, Any]) -> Answer:
    return Answer(OK, json.dumps(values).encode())


def _told(status: int, text: str) -> Answer:
    return Answer(status, json.dumps({"error": text}).encode())
