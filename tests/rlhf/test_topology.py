"""Who takes part, where, and who dials whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injection.scenario import LINKS
from rlhf.config import HARDENED, JobConfig, Posture
from rlhf.topology import components, default_port, links, name_table, role_and_rank, virtual_host

CONFIGS = st.builds(
    JobConfig,
    train_workers=st.integers(1, 40),
    rollout_workers=st.integers(1, 40),
    reference_workers=st.integers(1, 4),
    prompts_per_step=st.just(40),
    rollout_engine=st.sampled_from(["worker", "served"]),
    posture=st.builds(Posture, heartbeats=st.booleans(), metaserver=st.sampled_from(["process", "controller"])),
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
    """A component's name alone tells role, rank, host and port."""
    for name in components(config):
        role, rank = role_and_rank(name)
        assert name in (str(role), f"{role}{rank}")
        assert virtual_host(name) in ("control", "trainers", "rollouts")
        assert virtual_host(name, colocated=True) == virtual_host(name.replace("rollout", "train"))
        assert default_port(name) > 1024


@given(CONFIGS)
def test_the_controller_listens_for_beats_alone_and_only_when_there_are_any(config: JobConfig) -> None:
    """With heartbeats all beside controller and scheduler have a link to the controller; without, it listens nowhere."""
    table = name_table(config, lambda _: "10.0.0.1")
    beating = [src for src, dst, purpose in links(config) if (dst, purpose) == ("controller", "beat")]
    silent = {"controller", "scheduler"} | ({"metaserver"} if config.posture.metaserver == "controller" else set())
    assert set(beating) == (set(components(config)) - silent if config.posture.heartbeats else set())
    assert list(table["listen"].get("controller", {})) == (["beat"] if config.posture.heartbeats else [])


def test_a_scenario_can_name_every_link_and_no_other() -> None:
    """What a scenario may aim at is what some job dials, role by role."""
    jobs = [JobConfig(posture=HARDENED), JobConfig(posture=HARDENED, rollout_engine="served")]
    dialled = {
        (str(role_and_rank(src)[0]), str(role_and_rank(dst)[0]), purpose) for job in jobs for src, dst, purpose in links(job)
    }
    assert dialled == {(src, dst, purpose) for (src, dst), purposes in LINKS.items() for purpose in purposes}


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
