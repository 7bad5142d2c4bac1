"""Who takes part in a job, on which host, who dials whom and for what. Pure: no sockets, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf.config import JobConfig
from storage.records import RANKED_ROLES, Role, component_name

#: Hosts a job is laid out on, and the roles each carries.
HOSTS: dict[str, tuple[Role, ...]] = {
    "control": (Role.CONTROLLER, Role.SCHEDULER, Role.METASERVER, Role.REWARD, Role.SERVING),
    "trainers": (Role.TRAIN, Role.REFERENCE),
    "rollouts": (Role.ROLLOUT,),
}
#: First port of each role; a ranked role counts up from it.
PORTS = {
    Role.CONTROLLER: 7900,
    Role.METASERVER: 8080,
    Role.SCHEDULER: 8081,
    Role.REWARD: 8082,
    Role.SERVING: 8000,
    Role.TRAIN: 7001,
    Role.ROLLOUT: 7301,
    Role.REFERENCE: 7601,
}
#: What is spoken at a role's one port. An engine's calls and events share it, on connections of their own.
PURPOSES = {
    Role.CONTROLLER: ("beat",),
    Role.METASERVER: ("weights",),
    Role.SCHEDULER: ("scheduler",),
    Role.REWARD: ("reward",),
    Role.SERVING: ("generate",),
    Role.TRAIN: ("rpc", "event"),
    Role.ROLLOUT: ("rpc", "event"),
    Role.REFERENCE: ("rpc",),
}


def ranked(config: JobConfig, role: Role) -> list[str]:
    """The components of a ranked role, by rank."""
    return [component_name(role, rank) for rank in range(int(getattr(config, f"{role}_workers")))]


def components(config: JobConfig) -> list[str]:
    """Every component of the job."""
    single = [str(role) for role in (Role.CONTROLLER, Role.SCHEDULER, Role.METASERVER, Role.REWARD)]
    single += [str(Role.SERVING)] if config.rollout_engine == "served" else []
    return single + [name for role in RANKED_ROLES for name in ranked(config, role)]


def role_and_rank(component: str) -> tuple[Role, int]:
    """Role and rank of a component; a role without ranks has rank 0. Raises ValueError for a name that is none."""
    name = component.rstrip("0123456789")
    role = Role(name)
    digits = component[len(name) :]
    if bool(digits) != (role in RANKED_ROLES):
        raise ValueError(f"{component!r} is not a component of a job")
    return role, int(digits or 0)


def virtual_host(component: str, colocated: bool = False) -> str:
    """The host that carries a component; colocated, rollout workers are where train workers are."""
    role, _ = role_and_rank(component)
    role = Role.TRAIN if colocated and role == Role.ROLLOUT else role
    return next(host for host, roles in HOSTS.items() if role in roles)


def beating(config: JobConfig) -> list[str]:
    """The components that beat to the controller: its workers, and the servers beside them that are processes of their own."""
    if not config.posture.heartbeats:
        return []
    silent = {Role.CONTROLLER, Role.SCHEDULER} | ({Role.METASERVER} if config.posture.metaserver == "controller" else set())
    return [name for name in components(config) if name not in silent]


def services(config: JobConfig) -> dict[str, str]:
    """Processes without an engine that are started again when they are lost, and what the controller asks them by."""
    found = {"metaserver": "weights", "reward": "reward"} if config.posture.restart else {}
    return {
        name: purpose for name, purpose in found.items() if (name, config.posture.metaserver) != ("metaserver", "controller")
    }


def default_port(component: str) -> int:
    """The port of a component that has an address of its own."""
    role, rank = role_and_rank(component)
    return PORTS[role] + rank


def links(config: JobConfig) -> list[tuple[str, str, str]]:
    """Every (source, destination, purpose) the job dials."""
    trains, rollouts, references = (ranked(config, role) for role in (Role.TRAIN, Role.ROLLOUT, Role.REFERENCE))
    return [
        ("controller", "scheduler", "scheduler"),
        *[("controller", name, "rpc") for name in trains + rollouts + references],
        *[("controller", name, "event") for name in trains + rollouts],
        *[(name, "metaserver", "weights") for name in trains + rollouts],
        *[(name, "reward", "reward") for name in rollouts],
        *[(name, "serving", "generate") for name in rollouts if config.rollout_engine == "served"],
        *[("controller", name, purpose) for name, purpose in services(config).items()],
        *[(name, "controller", "beat") for name in beating(config)],
    ]


def name_table(
    config: JobConfig,
    address_of: Callable[[str], str],
    port_of: Callable[[str], int] = default_port,
    dial_of: Mapping[str, str] | None = None,
    host_of: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """The name table (``addresses.json``): where each component is, binds, listens and what it dials.

    ``dial_of`` maps a link's name ("train0>metaserver:weights") to the address to dial instead of the listener's own.
    """
    names, colocated = components(config), config.colocated
    heard = {"controller": PURPOSES[Role.CONTROLLER] if config.posture.heartbeats else ()}
    listening = {name: PURPOSES[role_and_rank(name)[0]] for name in names} | heard
    where = {name: f"{address_of(name)}:{port_of(name)}" for name in names if listening[name]}
    dial = {f"{src}>{dst}:{purpose}": where[dst] for src, dst, purpose in links(config)}
    strange = sorted(set(dial_of or {}) - set(dial))
    if strange:
        raise ValueError(f"no such link: {', '.join(strange)}")
    return {
        "host": {name: host_of(name) if host_of else virtual_host(name, colocated) for name in names},
        "bind": {name: address_of(name) for name in names},
        "listen": {name: dict.fromkeys(purposes, where[name]) for name, purposes in listening.items() if purposes},
        "dial": {**dial, **(dial_of or {})},
    }
