"""Open a case for everybody: publish label and salt, so that anyone can check the seal; no answer counts after it."""

from __future__ import annotations

import json
import time
from typing import Any

from storage import truth
from storage.atomic import write_atomic
from storage.layout import RunPaths
from storage.records import SCHEMA_VERSION, to_dict
from storage.seal import sha256_file, verify_seal
from tasks.answers import REVEAL, is_revealed, read_answers
from tasks.seal import committed


def reveal_run(paths: RunPaths) -> dict[str, Any]:
    """Write ``answers/reveal.json``: label, salt, what the neutral names stand for, and the chain of answers that it closes.

    A case is revealed once: a second time returns what was written. Raises ValueError for a case or chain that was altered,
    FileNotFoundError for a run that was never sealed.
    """
    if is_revealed(paths):
        told: dict[str, Any] = json.loads((paths.answers / REVEAL).read_bytes())
        return told
    label, salt, manifest = truth.load_label(paths), truth.load_salt(paths), paths.evidence / "manifest.json"
    answers = read_answers(paths)
    problems = verify_seal(paths) or verify_seal(paths, committed(label, manifest), salt)
    if problems + answers.problems:
        raise ValueError(f"run {paths.run_id} is not revealed: {'; '.join(problems + answers.problems)}")
    opened = {
        "schema_version": SCHEMA_VERSION,
        "case_id": json.loads(manifest.read_bytes())["case_id"],
        "label": to_dict(label),
        "salt": salt,
        "manifest_sha256": sha256_file(manifest),
        "names": truth.load_names(paths),
        "chain_sha256": answers.head,
        "revealed_s": time.time(),
    }
    paths.answers.mkdir(exist_ok=True)
    text = json.dumps(opened, indent=2)
    write_atomic(paths.answers / REVEAL, text.encode() + b"\n")
    written: dict[str, Any] = json.loads(text)
    return written


def check_seal(paths: RunPaths) -> dict[str, Any]:
    """What anyone can check of a case without its truth: ``{"revealed", "answers", "refused", "problems"}``.

    Evidence against its manifest, answers against their chain and, once it is revealed, the commitment against label and salt.
    """
    revealed = is_revealed(paths)
    problems = verify_seal(paths)
    if revealed and not problems:
        opened = json.loads((paths.answers / REVEAL).read_bytes())
        problems = verify_seal(paths, {**opened["label"], "manifest_sha256": opened["manifest_sha256"]}, opened["salt"])
        if opened["manifest_sha256"] != sha256_file(paths.evidence / "manifest.json"):
            problems.append("reveal.json: opens other evidence")
    answers = read_answers(paths)
    return {
        "revealed": revealed,
        "answers": len(answers.kept),
        "refused": answers.refused,
        "problems": problems + answers.problems,
    }
