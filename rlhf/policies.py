"""Which policy a job trains: the built-in one, or a Hugging Face model from a local folder."""

from __future__ import annotations

from rlhf.config import JobConfig
from rlhf.model import Policy, build_model


def build_policy(config: JobConfig) -> Policy:
    """The initial policy: the same parameters in every process of the job. Raises ValueError for a folder that holds none."""
    if not config.model_path:
        return build_model(config)
    from rlhf.hf_model import HfPolicy  # an extra, and seconds to import

    return HfPolicy(config.model_path)
