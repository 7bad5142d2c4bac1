"""The error taxonomy as text."""

import pickle

from rlhf.errors import EngineError, FrameworkError, InferenceEngineError, RefEngineError, TrainEngineError


def test_text_names_class_and_sub_error_and_survives_copying():
    """The text starts with both names, and an error that crosses a process boundary is still itself."""
    for kind in (FrameworkError, InferenceEngineError, RefEngineError, TrainEngineError):
        error = kind("SomeError", "the reason")
        assert isinstance(error, EngineError)
        assert str(error) == f"{kind.__name__}: SomeError: the reason"
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind and str(copy) == str(error) and copy.sub_error == "SomeError"
