"""Who takes part, where, and who dials whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config import JobConfig
from rlhf.topology import components, default_port, links, name_table, role_and_rank, virtual_host

CONFIGS = st.builds(
    JobConfig,
    train_workers=st.integers(1, 40),
    rollout_workers=st.integers(1, 40),
    reference_workers=st.integers(1, 4),
)


@given(CONFIGS)
def test_every_link_has_two_ends_and_a_listener(config: JobConfig) -> None:
    """Every dialled link ends where somebody listens for that purpose, and no two components share an address."""
    table = name_table(config, lambda _: "10.0.0.1")
    names = components(config)
    for src, dst, purpose in links(config):
        assert {src, dst} <= set(names)
        assert table["dial"][f"{src}>{dst}:{purpose}"] == table["listen"][dst][purpose]
    used = [set(listening.values()) for listening in table["listen"].values()]
    assert all(len(addresses) == 1 for addresses in used)
    assert len(set.union(*used)) == len(used)


@given(CONFIGS)
def test_names_tell_role_rank_and_host(config: JobConfig) -> None:
    """A component's name alone tells role, rank and host; only the controller listens nowhere."""
    for name in components(config):
        role, rank = role_and_rank(name)
        assert name in (str(role), f"{role}{rank}")
        assert virtual_host(name) in ("control", "trainers", "rollouts")
        assert virtual_host(name, colocated=True) == virtual_host(name.replace("rollout", "train"))
        assert (default_port(name) == 0) == (name == "controller")


@pytest.mark.parametrize("name", ["train", "metaserver0", "worker1", "", "rollout-1"])
def test_other_names_are_refused(name: str) -> None:
    """A name that no component can have raises ValueError."""
    with pytest.raises(ValueError):
        role_and_rank(name)


def test_a_proxy_is_dialled_in_place_of_the_listener() -> None:
    """`dial_of` changes what is dialled for one link and nothing else; an unknown link is refused by name."""
    config, link = JobConfig(), "train1>metaserver:weights"
    plain = name_table(config, lambda _: "127.0.0.1")
    proxied = name_table(config, lambda _: "127.0.0.1", dial_of={link: "127.0.0.1:5"})
    assert proxied["dial"] == {**plain["dial"], link: "127.0.0.1:5"}
    assert proxied["listen"] == plain["listen"]
    with pytest.raises(ValueError, match="train9>metaserver:weights"):
        name_table(config, lambda _: "127.0.0.1", dial_of={"train9>metaserver:weights": "127.0.0.1:5"})
