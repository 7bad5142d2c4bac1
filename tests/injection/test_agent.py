"""A host agent and an experimenter: faults asked for over the wire, kept by signs of life, undone without them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from injection import procfs
from injection.agent.agent import hold, recover
from injection.agent.audit import Audit
from injection.agent.client import AgentClient, AgentError, SilentAgentError
from injection.agent.keys import Keys, _certificate, make_keys, read_keys
from injection.agent.server import MESSAGE_LIMIT_BYTES, SERVICE
from injection.fault import RefusedError
from tests.injection.agents import COMMAND, RunningAgent, ended, environment, fault, proved
from tests.injection.victim import Victim, alive, wait_until

pytestmark = pytest.mark.job

NAMES = {Path(sys.executable).name, Path(os.path.realpath(sys.executable)).name}
ALLOWED = tuple(word for name in sorted(NAMES) for word in ("--allow-program", name))


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    """A socket at a port that is protected."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, listener: socket.socket) -> Iterator[RunningAgent]:
    folder = tmp_path_factory.mktemp("agent")
    port = str(listener.getsockname()[1])
    one = RunningAgent(folder, *ALLOWED, "--allow-folder", str(folder), "--protect-port", port)
    yield one
    one.close()


@pytest.fixture
def victim() -> Iterator[Victim]:
    one = Victim()
    yield one
    one.close()


def test_a_fault_is_in_force_until_it_is_cancelled(agent: RunningAgent, victim: Victim) -> None:
    """In force when the answer comes; proved; cancelled, it is proved gone; who asked for what is written down."""
    begun = agent.run(fault("process-pause", victim.who.pid), lease_s=20.0)
    name = begun["experiment"]
    assert begun["state"] == "in force" and victim.state == "T"
    assert proved(agent.client, name)["faults"][0]["verified"]["ok"] and victim.state == "T"
    assert [one["experiment"] for one in agent.client.list_all() if one["state"] == "in force"] == [name]
    last = agent.client.cancel(name)
    assert victim.state != "T"
    assert (last["state"], last["reason"], last["stuck"]) == ("ended", "cancelled by experimenter", "")
    assert last["faults"][0]["state"] == "gone" and last["faults"][0]["gone"]["ok"]
    told = [line["what"] for line in agent.audit() if name in json.dumps(line)]
    assert told == ["begin", "in force", "ended", "cancel"]
    assert all(line["who"] == "experimenter" for line in agent.audit() if name in json.dumps(line))
    with pytest.raises(AgentError, match="is over: cancelled"):
        agent.client.beat(name)
    assert list((agent.state / "journal").iterdir()) == []


def _command(agent: RunningAgent, verb: str, *words: str) -> subprocess.Popen[str]:
    where = ["--keys", str(agent.keys / "experimenter"), "--at", agent.address]
    argv = [*COMMAND[:2], verb, *words, *where]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment(agent.folder))


def test_a_request_in_a_file_is_done_for_its_time(agent: RunningAgent, victim: Victim) -> None:
    """`faultline agent run`: in force as long as asked, longer than a lease; both proofs, exit code 0; the list tells of it."""
    request = agent.folder / "asked.yaml"
    request.write_text(yaml.safe_dump({"faults": [fault("process-pause", victim.who.pid, for_s=4.5)], "lease_s": 4.0}))
    asker = _command(agent, "run", str(request))
    out, _ = asker.communicate(timeout=60)
    assert asker.returncode == 0 and victim.state != "T", out
    row = out.splitlines()[-1].split()
    assert row[1:3] == ["experimenter", "ended"] and row[-4:] == ["gone", "yes", "yes", "over"]
    assert row[0] in {one["experiment"] for one in agent.client.list_all()}


def test_who_falls_silent_loses_the_fault(agent: RunningAgent, victim: Victim) -> None:
    """An experimenter is killed: its fault is undone when the lease is over, and everything that it needed ends."""
    request = agent.folder / "request.yaml"
    request.write_text(yaml.safe_dump({"faults": [fault("process-pause", victim.who.pid)], "lease_s": 2.0}))
    asker = _command(agent, "run", str(request))
    name = asker.stdout.readline().split()[1]
    assert victim.state == "T"
    asker.kill()
    asker.communicate()
    wait_until(lambda: victim.state != "T", "the victim goes on")
    last = ended(agent.client, name)
    assert "the lease was not kept" in last["reason"] and last["faults"][0]["gone"]["ok"]
    wait_until(lambda: len(agent.family()) == 1, "hands, probe and watchdog have ended")


@pytest.mark.long
def test_several_at_once_compose_as_their_kinds_do(agent: RunningAgent, victim: Victim) -> None:
    """Contention and a pause of one process by two experiments; a second pause is refused by its kind and harms neither."""
    busy = agent.run(fault("cpu-contention", victim.who.pid, {"share_percent": 30.0}), lease_s=60.0)["experiment"]
    still = agent.run(fault("process-pause", victim.who.pid), lease_s=60.0)["experiment"]
    with pytest.raises(AgentError, match="is stopped already, and not by this fault"):
        agent.run(fault("process-pause", victim.who.pid))
    for name in (busy, still):
        assert all(one["verified"]["ok"] for one in proved(agent.client, name)["faults"])
    agent.client.cancel(still)
    assert victim.state != "T" and agent.client.beat(busy)["state"] == "in force"
    assert agent.client.cancel(busy)["faults"][0]["gone"]["ok"]


def test_kill_9_of_the_agent_is_undone_without_it(scratch: Path, victim: Victim) -> None:
    """Agent killed: nothing stays in force or left running; the next agent there finds nothing to undo."""
    one = RunningAgent(scratch, *ALLOWED)
    one.run(fault("process-pause", victim.who.pid), fault("memory-pressure", victim.who.pid, {"headroom_mib": 64.0}))
    family = [process.pid for process in one.family()]
    with pytest.raises(RefusedError, match="another agent keeps its state in"):
        hold(one.state)
    assert recover(one.state) == []  # it lives: what it does is its own matter
    assert victim.state == "T" and len(family) > 3
    one.process.send_signal(signal.SIGKILL)
    wait_until(lambda: victim.state != "T" and victim.allocate() == "allocated", "all is undone")
    wait_until(lambda: not any(alive(pid) for pid in family[1:]), "everything of it has ended")
    one.close()
    assert {outcome.outcome for outcome in recover(one.state)} == {"reverted"}
    assert list((one.state / "journal").iterdir()) == []


@pytest.mark.long
def test_agent_and_watchdog_killed_the_next_agent_undoes(scratch: Path, victim: Victim) -> None:
    """Both killed at once: the fault stays, and goes when the next agent starts on that folder, which says so."""
    one = RunningAgent(scratch, *ALLOWED)
    one.run(fault("process-pause", victim.who.pid))
    for process in one.family():
        if process.pid == one.process.pid or "injection.watchdog" in process.cmdline():
            process.kill()
    wait_until(lambda: not procfs.read_stat(one.process.pid) or one.process.poll() is not None, "it is dead")
    one.close()
    assert victim.state == "T"
    two = RunningAgent(scratch, *ALLOWED)
    assert victim.state != "T" and "process-pause f1" in two.said[0] and "reverted" in two.said[0]
    two.close()


#: An agent and the experimenter's end of it, as whoever runs this: faults on processes of one's own.
AS_ANYBODY = """
import json, pathlib, subprocess, sys
from injection.agent.client import AgentError
from tests.injection.agents import RunningAgent, fault, proved
sleeper = subprocess.Popen(["sleep", "600"])
agent = RunningAgent(pathlib.Path.home())
try:
    own = fault("process-pause", sleeper.pid), fault("memory-pressure", sleeper.pid, {"headroom_mib": 30})
    name = agent.run(*own, lease_s=60.0)["experiment"]
    told = [one["verified"]["ok"] for one in proved(agent.client, name)["faults"]]
    told += [one["gone"]["ok"] for one in agent.client.cancel(name)["faults"]]
    try:
        agent.run(fault("process-kill", int(sys.argv[1])))
    except AgentError as error:
        told.append(str(error))
    print(json.dumps(told))
finally:
    agent.close()
    sleeper.kill()
"""


@pytest.mark.long
def test_an_ordinary_user_lends_what_is_his(ordinary_user: Callable, victim: Victim) -> None:
    """Without privilege: faults on processes of one's own, proved and undone; another user's process was not set free."""
    other, why = (victim.who.pid, "was not set free") if os.geteuid() == 0 else (1, "is protected")
    asking = ordinary_user([sys.executable, "-c", AS_ANYBODY, str(other)])
    out, err = asking.communicate(timeout=120)
    assert asking.returncode == 0, err
    *proofs, refusal = json.loads(out)
    assert proofs == [True] * 4 and why in refusal


@pytest.mark.long
def test_a_hung_agent_keeps_nobody_in_force(scratch: Path, victim: Victim) -> None:
    """An agent that is stopped cannot hear that the experimenter is gone: the watchdog undoes when the lease is over."""
    one = RunningAgent(scratch, *ALLOWED)
    name = one.run(fault("process-pause", victim.who.pid), lease_s=1.0)["experiment"]
    one.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: victim.state != "T", "the watchdog wakes the victim")
    one.process.send_signal(signal.SIGCONT)
    assert ended(one.client, name)["stuck"] == ""
    one.close()


LINK = {"src": "127.0.0.1", "dst": "127.0.0.1:22"}
#: What is asked of the agent with the victim's pid for PID -> what it answers.
REFUSED: dict[str, tuple[dict, str]] = {
    "no kind": ({"kind": "earthquake"}, "faults.0.kind: 'earthquake' is not allowed; allowed: 'noop', "),
    "no target": ({"target": None}, "faults.0.target: must be a mapping"),
    "strange key": ({"wait_s": 3}, "faults.0.wait_s: unknown key; allowed: id, kind, target, params, after_s, for_s"),
    "parameter": ({"kind": "cpu-contention", "params": {"share_percent": 300}}, "share_percent: input should be less than or"),
    "no process": ({"target": {"pid": 4194303}}, "there is no process 4194303"),
    "first process": ({"target": {"pid": 1}}, "process 1 .* is protected: it is the machine's"),
    "the agent": ({"target": {"pid": "AGENT"}}, "is protected: the agent needs it"),
    "who started it": ({"target": {"pid": "HERE"}}, "is protected: the agent needs it"),
    "not set free": ({"target": {"pid": "SLEEP"}}, "was not set free: neither its program nor its user"),
    "wrong target": ({"target": {"pid": "PID", "path": "/x"}}, "process-pause acts on a process, not on a path"),
    "port 22": ({"kind": "network-reset", "target": {"pid": "PID", "link": LINK}}, "port 22 is protected"),
    "own port": (
        {"kind": "network-reset", "target": {"pid": "PID", "link": LINK | {"dst": "OWN"}}},
        "port [0-9]+ is protected",
    ),
    "no network": (
        {"kind": "network-reset", "target": {"pid": "PID", "link": LINK | {"dst": "10.0.0.1:80", "dst_network": "moon"}}},
        "there is no network 'moon' here",
    ),
    "no proxy": ({"kind": "network-reset", "target": {"pid": "PID", "link": {"proxy": "x"}}}, "has no proxy to relay links by"),
    "no resolver": (
        {"kind": "dns-failure", "params": {"how": "nxdomain"}, "target": {"pid": "PID", "link": LINK | {"dst": "10.0.0.1:80"}}},
        "dns-failure cannot be done in the agent-host",
    ),
    "strange file": (
        {"kind": "file-corruption", "params": {"how": "truncate"}, "target": {"pid": "PID", "path": "/etc/passwd"}},
        "/etc/passwd was not set free",
    ),
    "way out": (
        {"kind": "file-corruption", "params": {"how": "truncate"}, "target": {"pid": "PID", "path": "FOLDER/../x"}},
        "is not a plain path",
    ),
    "own disk": (
        {"kind": "disk-fill", "params": {"percent": 99}, "target": {"pid": "PID", "path": "FOLDER"}},
        "lies on the disk of",
    ),
    "reserve": (
        {"kind": "memory-pressure", "params": {"headroom_mib": 511, "where": "machine"}},
        "the reserve of 512 MiB is not touched",
    ),
    "all memory": (
        {"kind": "memory-pressure", "params": {"headroom_mib": 9, "where": "group", "ballast_mib": 900000}},
        "MiB of memory would be left: the reserve is 512 MiB",
    ),
    "device": ({"kind": "memory-pressure", "params": {"headroom_mib": 9, "where": "device"}}, "an agent has none"),
    "listener": ({"target": {"pid": "SERVER"}}, "is protected: it listens at port"),
}


def test_what_must_not_be_hit_is_refused_in_a_sentence(agent: RunningAgent, victim: Victim, listener: socket.socket) -> None:
    """Nonsense, the machine's, the agent's own, what was not set free, the last reserves: refused, and written down why."""
    sleeper = subprocess.Popen(["sleep", "600"])
    argv = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    server = subprocess.Popen(argv, pass_fds=[listener.fileno()])
    try:
        pids = {
            "PID": victim.who.pid,
            "AGENT": agent.process.pid,
            "HERE": os.getpid(),
            "SLEEP": sleeper.pid,
            "SERVER": server.pid,
        }
        for case, (changes, sentence) in REFUSED.items():
            asked = {"kind": "process-pause", "target": {"pid": victim.who.pid}} | changes
            text = json.dumps(asked).replace("FOLDER", str(agent.folder)).replace('"OWN"', f'"{agent.address}"')
            for word, pid in pids.items():
                text = text.replace(f'"{word}"', str(pid))
            with pytest.raises((AgentError, ValueError), match=sentence):
                pytest.fail(f"{case}: {agent.run(json.loads(text))}")
            assert agent.audit()[-1]["what"] == "refused", case
        with pytest.raises(ValueError, match="faults: must be 1 to 16 faults"):
            agent.run()
        with pytest.raises(AgentError, match="there is no experiment 'x0'; there are: "):
            agent.client.cancel("x0")
        assert victim.state != "T" and list((agent.state / "journal").iterdir()) == []
    finally:
        for process in (sleeper, server):
            process.kill()
            process.wait()


def _refused(address: str, keys: Keys, pattern: str, kind: type[Exception] = SilentAgentError) -> None:
    client = AgentClient(address, keys)
    with pytest.raises(kind, match=pattern):
        client.list_all()
    client.close()


def _expired(folder: Path, mine: Keys) -> Keys:
    """As the experimenter's, but that its certificate was valid until yesterday; nobody looks at that before it is shown."""
    authority = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
    own = serialization.load_pem_private_key(mine.key, None)
    ca, yesterday = x509.load_pem_x509_certificate(mine.ca), timedelta(days=-1)
    made = _certificate("late", (), own.public_key(), ExtendedKeyUsageOID.CLIENT_AUTH, authority, ca, yesterday)
    return replace(mine, certificate=made.public_bytes(serialization.Encoding.PEM))


def test_only_who_is_trusted_is_heard(agent: RunningAgent, tmp_path: Path) -> None:
    """A wrong token, another CA on either side, an expired certificate, no TLS, no certificate: not one call gets through."""
    mine = read_keys(agent.keys / "experimenter", {})
    wrong = Keys(mine.ca, mine.certificate, mine.key, {"a-token-of-nobody": "experimenter"})
    _refused(agent.address, wrong, "the token is not one of this agent's", AgentError)
    make_keys(tmp_path / "other", ["localhost"])
    other = read_keys(tmp_path / "other" / "experimenter", {})
    _refused(agent.address, replace(mine, ca=other.ca), "no agent answers at")
    _refused(agent.address, replace(other, ca=mine.ca, tokens=mine.tokens), "no agent answers at")
    make_keys(tmp_path / "late", ["localhost"], timedelta(days=-1))
    with pytest.raises(ValueError, match=r"cert\.pem expired at "):
        read_keys(tmp_path / "late" / "experimenter", {})
    _refused(agent.address, _expired(agent.keys, mine), "no agent answers at")
    plain = grpc.insecure_channel(agent.address, options=[("grpc.enable_http_proxy", 0)])
    bare = grpc.secure_channel(agent.address, grpc.ssl_channel_credentials(mine.ca), options=[("grpc.enable_http_proxy", 0)])
    for channel in (plain, bare):
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(f"/{SERVICE}/List")(b"{}", 5, (("authorization", mine.bearer()),))
        channel.close()
    before = len(agent.audit())
    assert agent.client.list_all() is not None and len(agent.audit()) == before


def test_nonsense_on_the_wire_harms_nobody(agent: RunningAgent) -> None:
    """Too large, no JSON, nested without end, no object, no such method: refused, and the next call is answered."""
    channel = agent.client._channel
    bodies = [
        b"x" * (MESSAGE_LIMIT_BYTES + 1),
        b"{",
        b"[" * 60_000,
        b"[]",
        b'{"experiment": {}}',
        b'{"faults": {"1": 2}, "x": NaN}',
    ]
    for body in bodies:
        for method in ("Run", "Beat", "Nothing"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/{SERVICE}/{method}")(body, 5, agent.client._metadata)
            assert caught.value.code() not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert isinstance(agent.client.list_all(), list)


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    """Key and tokens are their owner's alone; a token may come from the environment; nothing is overwritten by new ones."""
    make_keys(tmp_path, ["localhost"])
    folder = tmp_path / "experimenter"
    assert read_keys(folder, {"FAULTLINE_AGENT_TOKEN": "me:0123456789abcdef"}).bearer() == "Bearer me:0123456789abcdef"
    for name, text in (("tokens", "me:short\n"), ("tokens", "")):
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=r"the token at least 16 characters long|there is no token"):
            read_keys(folder, {})
    (folder / "tokens").write_text("me:0123456789abcdef\n")
    for name in ("tokens", "key.pem"):
        (folder / name).chmod(0o640)
        with pytest.raises(ValueError, match=f"{name} may be read or written by others"):
            read_keys(folder, {})
        (folder / name).chmod(0o600)
    with pytest.raises(FileExistsError):
        make_keys(tmp_path, ["localhost"])


def test_the_audit_log_is_put_aside_when_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is lost or torn, and none is ever removed."""
    monkeypatch.setattr("injection.agent.audit.LIMIT_BYTES", 100)
    log = Audit(tmp_path / "audit.jsonl")
    for number in range(20):
        log.note("me", "did", number=number)
    log.close()
    lines = [line for path in tmp_path.glob("audit*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(json.loads(line)["number"] for line in lines) == list(range(20)) and len(list(tmp_path.iterdir())) > 5
