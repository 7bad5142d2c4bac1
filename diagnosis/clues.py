"""What one line of a training log says by itself: the stage it opens, the components it names, the kinds its words suggest.

Shared reading rules of the rule-based diagnosers. They know the trainer's vocabulary and common operating-system errors,
nothing of what was done to the job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from diagnosis.reader import LogRecord
from diagnosis.vocabulary import Vocabulary
from storage.records import Cause

#: The controller's own words at the start of each stage, in the order in which they are tried.
STAGE_OPENINGS: tuple[tuple[str, str], ...] = (
    ("weights_update", r"start to update weight"),
    ("rollout", r"start to (notify_rollout_start_event|rollout)"),
    ("reference", r"start to compute_logprobs"),
    ("checkpoint", r"start save \w*checkpoint"),
    ("train", r"start to (notify_train_start_event|train)"),
    ("cleanup", r"Stopping job with UID"),
)

#: Words inside an error that tell the stage whatever the controller was doing: the trainer's own error classes and calls.
STAGE_WORDS: tuple[tuple[str, str], ...] = (
    ("cleanup", r"Error stopping job|cancel"),
    ("weights_update", r"UpdateWeight|UpdateWorker|UploadWeight|update_weight|upload_weight"),
    ("reward", r"RewardError|\bscor(e|ing)\b"),
    ("reference", r"RefEngine|ComputeLogp|RecomputeLogp|compute_logp"),
    ("train", r"DistributedBatchMemory|TrainError|TrainBatch|train_batch|all_?reduce|gloo"),
    ("rollout", r"RolloutError|generate|InferenceWorker"),
    ("checkpoint", r"SaveError|RecoverError|checkpoint"),
    ("init", r"InitializeError|create_engine|initialize"),
)

#: Kinds that the words of an error suggest, likeliest first. Written from what the operating system and HTTP clients say.
KIND_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"allocate memory|out of memory|\bMemoryError|bad_alloc|alloc_cpu", ("memory-pressure",)),
    (r"reset by peer|Connection aborted|RemoteDisconnected|[Bb]roken pipe", ("process-kill", "network-reset")),
    (r"[Cc]onnection refused|exit (code|status) -?\d+|SIGKILL|[Kk]illed", ("process-kill",)),
    (r"[Tt]imed? ?-?out", ("network-bandwidth", "network-delay", "process-pause", "cpu-contention")),
    (r"size mismatch|short body|IncompleteRead", ("process-kill", "network-reset", "memory-pressure")),
)

#: When an error's words suggest nothing: what ends jobs most often comes first.
FALLBACK_KINDS = ("process-kill", "network-delay", "memory-pressure")


#: What differs from one line to the next of the same kind: names, ids, quoted text, numbers.
_VARIABLE = re.compile(r"\b[wn]-[0-9a-f]{4}\b|\b[0-9a-f]{12,}\b|'[^']*'|-?\d+(?:\.\d+)?(?:e-?\d+)?")

#: The kinds that a metric can be moved by, likeliest first, by a part of its name.
METRIC_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"rtt|latency|silent|ping", ("network-delay", "network-bandwidth")),
    (r"retransmit", ("network-loss", "network-partition")),
    (r"link|net_|bytes_per_s|queue", ("network-bandwidth", "network-delay")),
    (r"disk|write|read|fsync", ("disk-fill", "io-contention")),
    (r"memory|rss|pss|uss|oom|faults|vsize", ("memory-pressure",)),
    (r"cpu|switches|load|timeperf|samples_per_s", ("cpu-contention", "process-pause")),
    (r"process|threads|heartbeat", ("process-kill", "process-pause")),
)


def template(text: str) -> str:
    """The first line with everything that varies replaced by ``*``: lines of one kind have one template."""
    return _VARIABLE.sub("*", text.split("\n", 1)[0])


def metric_kinds(metric: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Kinds that could move this metric, likeliest first."""
    told = next((kinds for pattern, kinds in METRIC_KINDS if re.search(pattern, metric)), FALLBACK_KINDS)
    return tuple(kind for kind in told if kind in vocabulary.kinds)


def stages_in_force(records: Iterable[LogRecord]) -> Iterator[tuple[LogRecord, str]]:
    """Each record of the controller's log with the stage the job was in when it was written (``init`` before the first)."""
    stage = "init"
    for record in records:
        stage = opened_stage(record.text) or stage
        yield record, stage


def opened_stage(text: str) -> str:
    """The stage this text announces the start of, or an empty text."""
    return next((stage for stage, pattern in STAGE_OPENINGS if re.search(pattern, text)), "")


def told_stage(text: str) -> str:
    """The stage an error's own words point to, or an empty text."""
    return next((stage for stage, pattern in STAGE_WORDS if re.search(pattern, text)), "")


def named_components(text: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Components whose neutral names occur in the text, in order of first occurrence."""
    found = {name: text.find(name) for name in vocabulary.components}
    return tuple(sorted((name for name, at in found.items() if at >= 0), key=found.__getitem__))


def says_something(text: str, vocabulary: Vocabulary) -> bool:
    """Whether the text holds any clue at all: a component, a stage, or words that suggest a kind."""
    hints_kind = any(re.search(pattern, text) for pattern, _ in KIND_WORDS)
    return hints_kind or bool(told_stage(text)) or bool(named_components(text, vocabulary))


def suggested_kinds(text: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Kinds that the text's words suggest, likeliest first, without repetition; never empty for the full vocabulary."""
    told = [kind for pattern, kinds in KIND_WORDS if re.search(pattern, text) for kind in kinds]
    return tuple(kind for kind in dict.fromkeys(told or FALLBACK_KINDS) if kind in vocabulary.kinds)


def causes(components: Iterable[str], stage: str, kinds: Iterable[str]) -> tuple[Cause, ...]:
    """Every component with the likeliest kind first, then every component with the next kind, and so on."""
    suspects = tuple(dict.fromkeys(components))
    return tuple(Cause(component, stage, kind) for kind in kinds for component in suspects)
