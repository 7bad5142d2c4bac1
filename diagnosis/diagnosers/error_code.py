"""``error-code``: the method in use in the trainer this job is modelled on: look up the error class in a table.

A line that holds both an error type and one of its sub-errors, in the last 5000 lines of a log, decides. By construction
the answer is the place where the error shows.
"""

from __future__ import annotations

from diagnosis.clues import causes, named_components, suggested_kinds
from diagnosis.reader import EvidenceReader
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis

WINDOW_LINES = 5000

#: (error type, sub-error) -> (role, stage).
TAXONOMY: dict[tuple[str, str], tuple[str, str]] = {
    ("TrainEngineError", "InitializeError"): ("train", "init"),
    ("TrainEngineError", "UpdateWorkerError"): ("train", "weights_update"),
    ("TrainEngineError", "UploadWeightsError"): ("train", "weights_update"),
    ("TrainEngineError", "SaveError"): ("train", "checkpoint"),
    ("TrainEngineError", "TrainError"): ("train", "train"),
    ("TrainEngineError", "TrainBatchError"): ("train", "train"),
    ("TrainEngineError", "RecomputeLogpError"): ("train", "reference"),
    ("TrainEngineError", "NotifyEventError"): ("train", "train"),
    ("InferenceEngineError", "InitializeError"): ("rollout", "init"),
    ("InferenceEngineError", "UpdateWeightError"): ("rollout", "weights_update"),
    ("InferenceEngineError", "RolloutError"): ("rollout", "rollout"),
    ("InferenceEngineError", "NotifyEventError"): ("rollout", "rollout"),
    ("RefEngineError", "InitializeError"): ("reference", "init"),
    ("RefEngineError", "UpdateWeightError"): ("reference", "weights_update"),
    ("RefEngineError", "ComputeLogpError"): ("reference", "reference"),
    ("FrameworkError", "DataLoaderError"): ("controller", "init"),
    ("FrameworkError", "SchedulerError"): ("scheduler", "init"),
    ("FrameworkError", "DistributedBatchMemoryError"): ("controller", "train"),
    ("FrameworkError", "RewardError"): ("reward", "reward"),
    ("FrameworkError", "RecoverError"): ("controller", "checkpoint"),
    ("FrameworkError", "InferenceWorkerRolloutError"): ("rollout", "rollout"),
    ("FrameworkError", "TrainWorkerRolloutError"): ("train", "rollout"),
    ("FrameworkError", "MetaServerError"): ("metaserver", "weights_update"),
}


def diagnose(reader: EvidenceReader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames role and stage of the last known error code, in the controller's log if it has one; abstains without any."""
    for path in reader.logs():
        for line in reversed(reader.tail(path, WINDOW_LINES)):
            place = _lookup(line)
            if place:
                role, stage = place
                of_role = vocabulary.of_role(role)
                named = tuple(name for name in named_components(line, vocabulary) if name in of_role)
                ranked = causes((*named, *of_role), stage, suggested_kinds(line, vocabulary))
                return Diagnosis(fault=True, ranked=ranked, reason=f"{path}: {line[:200]}")
    return Diagnosis(fault=False, ranked=(), abstain=True, reason="no known error code")


def _lookup(line: str) -> tuple[str, str] | None:
    return next((place for (kind, sub), place in TAXONOMY.items() if kind in line and sub in line), None)
