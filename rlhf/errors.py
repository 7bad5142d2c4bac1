"""The job's error taxonomy: an engine's class and a sub-error, both in the text, so that a log line alone tells them."""

from __future__ import annotations


class EngineError(Exception):
    """What went wrong in an engine. ``str`` reads ``<Class>: <SubError>: <message>``."""

    def __init__(self, sub_error: str, message: str):
        super().__init__(sub_error, message)
        self.sub_error = sub_error
        self.message = message

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.sub_error}: {self.message}"


class TrainEngineError(EngineError):
    """InitializeError, UploadWeightsError, TrainBatchError, SaveError, RecoverError, NotifyEventError."""


class InferenceEngineError(EngineError):
    """InitializeError, UpdateWeightError, RolloutError, NotifyEventError."""


class RefEngineError(EngineError):
    """InitializeError, ComputeLogpError."""


class FrameworkError(EngineError):
    """DistributedBatchMemoryError, SchedulerError, RewardError, RecoverError and the like: nobody's engine."""
