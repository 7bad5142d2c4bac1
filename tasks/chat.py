"""Let a language model work a sealed case, and keep its answer with the whole talk."""

from __future__ import annotations

import hashlib
import io
import json
import time
from typing import Any

from adapters.chat import ChatError, Endpoint, Talk
from diagnosis.sandbox import ANSWERED, FAILED, Attempt, Limits
from diagnosis.serve import Server
from storage.layout import RunPaths
from storage.seal import verify_seal
from tasks.answers import is_revealed, keep_answer
from tasks.diagnose import answer_of


def chat_run(paths: RunPaths, endpoint: Endpoint, tier: str) -> dict[str, Any]:
    """The answer of the model at ``endpoint`` on a tier of a sealed run, as it was kept; no answer is a failed one.

    Raises ValueError for evidence that is not as it was sealed and for a case that is revealed.
    """
    problems = verify_seal(paths) or (["it is revealed: no answer counts any more"] if is_revealed(paths) else [])
    if problems:
        raise ValueError(f"run {paths.run_id} cannot be diagnosed: {'; '.join(problems)}")
    limits, notes = Limits(), io.StringIO()
    server = Server(paths.evidence, tier, {"calls": limits.calls, "bytes": limits.served_bytes}, notes)
    talk = Talk(endpoint, server, json.loads((paths.evidence / "manifest.json").read_bytes()))
    begun = time.monotonic()
    try:
        diagnosis, reason = talk.work(), ""
    except ChatError as error:
        diagnosis, reason = None, str(error)
    transcript = "".join(json.dumps(line) + "\n" for line in talk.lines)
    status = ANSWERED if diagnosis else FAILED
    meter = {**server.reader.meter.to_dict(), "tokens": talk.tokens}
    came = Attempt(diagnosis, reason, meter, time.monotonic() - begun, "served", status, notes.getvalue())
    answer = answer_of(paths, endpoint.name, tier, came, hashlib.sha256(transcript.splitlines()[0].encode()).hexdigest())
    return keep_answer(paths, answer | {"model": endpoint.model}, came.calls, transcript)
