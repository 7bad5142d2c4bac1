"""Verb agent: lend this host for faults to experimenters elsewhere, and be such an experimenter."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from flows.printing import as_json, print_json, print_table

FOLDER = click.Path(file_okay=False, path_type=Path)
FAULT_COLUMNS = ["experiment", "who", "state", "lease_left_s", "id", "kind", "backend", "fault", "proved", "gone", "reason"]
keys_option = click.option(
    "--keys", type=FOLDER, required=True, envvar="FAULTLINE_AGENT_KEYS", help="Folder with ca.pem, cert.pem, key.pem, tokens."
)
at_option = click.option("--at", "address", default="localhost:7461", show_default=True, metavar="HOST:PORT", help="The agent.")
experiment_argument = click.argument("experiment")


@click.group()
def agent() -> None:
    """Do faults on another host: an agent there, an experimenter here."""


@agent.command("make-certificates")
@click.argument("folder", type=FOLDER)
@click.option("--name", "names", multiple=True, help="Name or address by which the agent is dialled.  [default: this host]")
def make_certificates(folder: Path, names: tuple[str, ...]) -> None:
    """Make FOLDER/agent and FOLDER/experimenter: certificates of one new CA, keys and a token."""
    import socket

    from injection.agent.keys import make_keys

    make_keys(folder, names or ("localhost", "127.0.0.1", socket.gethostname()))
    click.echo(f"{folder}/agent stays with the agent, {folder}/experimenter goes to the experimenter's host")


@agent.command()
@keys_option
@click.option("--listen", default="127.0.0.1:7461", show_default=True, metavar="HOST:PORT", help="Port 0: any free one.")
@click.option("--state", type=FOLDER, help="The agent's own folder.  [default: FAULTLINE_HOME/agent]")
@click.option(
    "--allow-program", "programs", multiple=True, metavar="NAME", help="A program that may be hit; may be given often."
)
@click.option(
    "--allow-user", "users", multiple=True, metavar="USER", help="Whose processes may be hit.  [default: own, not root's]"
)
@click.option("--allow-folder", "folders", multiple=True, type=FOLDER, help="Where files may be damaged and disks filled.")
@click.option("--protect-port", "ports", multiple=True, type=int, help="A further port that stays untouched.")
@click.option("--reserve-memory-mib", type=int, default=512, show_default=True, help="Memory that is left in any case.")
@click.option("--reserve-disk-mib", type=int, default=512, show_default=True, help="Room that is left on a disk in any case.")
@click.option(
    "--proxy-api", default="", metavar="HOST:PORT", help="Where `faultline proxy` listens, if links are relayed by it."
)
def start(keys: Path, listen: str, state: Path | None, **allowed: Any) -> None:
    """Lend this host, until interrupted."""
    import threading

    from injection.agent.agent import Agent
    from injection.agent.keys import read_keys
    from injection.agent.server import serve

    read = read_keys(keys)
    lent = Agent(_policy(state, listen, **allowed))
    for one in lent.left:
        click.echo(f"left by an earlier agent: {one}")
    try:
        server, port = serve(listen, read, lent.methods())
        lent.protect(port)
        click.echo(f"agent at {listen.rpartition(':')[0]}:{port}")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        finally:
            server.stop(grace=0)
    finally:
        lent.close()


def _policy(
    state: Path | None,
    listen: str,
    *,
    programs: tuple[str, ...],
    users: tuple[str, ...],
    folders: tuple[Path, ...],
    ports: tuple[int, ...],
    reserve_memory_mib: int,
    reserve_disk_mib: int,
    proxy_api: str,
) -> Any:
    import os
    import pwd

    from flows.stack import load_stack
    from injection.agent.policy import PORTS, Policy
    from injection.memory.pressure import MIB
    from storage.layout import agent_dir

    own = () if os.geteuid() == 0 else (os.geteuid(),)
    try:
        known = [int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid for user in users]
    except KeyError as error:
        raise ValueError(f"--allow-user: {error}") from error
    stack = load_stack()
    return Policy(
        state=(state or agent_dir()).resolve(),
        programs=frozenset(programs),
        users=frozenset(known or own),
        folders=tuple(folder.resolve() for folder in folders),
        ports=PORTS | {*ports, int(listen.rpartition(":")[2] or 0), *([stack.port] if stack else [])},
        memory_reserve_bytes=reserve_memory_mib * MIB,
        disk_reserve_bytes=reserve_disk_mib * MIB,
        proxy_api=proxy_api,
    )


@agent.command()
@click.argument("request", type=click.File())
@keys_option
@at_option
@as_json
def run(request: Any, keys: Path, address: str, as_json: bool) -> None:
    """Do what REQUEST (YAML; - is standard input) asks, keep it in force until over or interrupted, and show the proofs."""
    import yaml

    from injection.agent.client import keep

    asked = yaml.safe_load(request)
    if not isinstance(asked, dict):
        raise ValueError("a request is a mapping with keys faults, lease_s")  # noqa: TRY004 - the user's mistake
    client = _client(keys, address)
    begun = client.run(asked)
    click.echo(f"experiment {begun['experiment']} is in force", err=as_json)
    last = keep(client, begun, lambda _: None)
    _show([last], as_json)
    sys.exit(0 if last["reason"] == "over" and not last["stuck"] else 1)


@agent.command("list")
@keys_option
@at_option
@as_json
def list_experiments(keys: Path, address: str, as_json: bool) -> None:
    """All experiments of an agent, and the last that ended."""
    _show(_client(keys, address).list_all(), as_json)


@agent.command()
@experiment_argument
@keys_option
@at_option
@as_json
def status(experiment: str, keys: Path, address: str, as_json: bool) -> None:
    """Where an EXPERIMENT is, with its proofs."""
    _show([_client(keys, address).status(experiment)], as_json)


@agent.command()
@experiment_argument
@keys_option
@at_option
@as_json
def cancel(experiment: str, keys: Path, address: str, as_json: bool) -> None:
    """Undo an EXPERIMENT, whoever's it is."""
    last = _client(keys, address).cancel(experiment)
    _show([last], as_json)
    sys.exit(1 if last["stuck"] or last["state"] != "ended" else 0)


def _client(keys: Path, address: str) -> Any:
    from injection.agent.client import AgentClient
    from injection.agent.keys import read_keys

    return AgentClient(address, read_keys(keys))


def _show(experiments: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(experiments)
        return
    rows = [_row(experiment, fault) for experiment in experiments for fault in experiment["faults"]]
    print_table(rows, FAULT_COLUMNS, "no experiments")


def _row(experiment: dict[str, Any], fault: dict[str, Any]) -> dict[str, Any]:
    proofs = {name: fault[about]["ok"] if about in fault else "" for name, about in (("proved", "verified"), ("gone", "gone"))}
    reason = experiment["stuck"] or fault["wrong"] or experiment["reason"]
    return {**fault, **experiment, **proofs, "fault": fault["state"], "reason": reason}
