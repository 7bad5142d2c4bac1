import re
from datetime import datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diagnosis.sanitise import FORBIDDEN, Rewriting, UnknownToken, sanitise_line, sanitise_log

KNOWN = Rewriting(
    components={"controller": "w-c000", "metaserver": "w-e000", "train0": "w-aaaa", "train1": "w-bbbb", "rollout0": "w-cccc"},
    hosts={"trainers": "n-1111", "control": "n-2222"},
    endpoints={"10.98.0.105:7001": "w-aaaa:rpc", "10.98.0.103:8080": "w-e000:weights", "127.0.0.1:9001": "w-e000:weights"},
    addresses={"10.98.0.105": "w-aaaa", "10.98.0.103": "w-e000"},
    pids={41: "w-aaaa"},
    roots=((re.compile("/home/me/runs/r1/job/?"), "job/"), (re.compile("/home/me/code/"), "")),
    shift_s=100,
    strange=("workstation-7",),
)


def clean(text: str, owner: str = "controller") -> str:
    return sanitise_line(text, owner, KNOWN)


@pytest.mark.parametrize(
    ("raw", "evidence"),
    [
        ("train0 is up, train-1 too, TRAIN_0 again", "w-aaaa is up, w-bbbb too, w-aaaa again"),
        ("key weights/v3/train1/chunk0", "key weights/v3/w-bbbb/chunk0"),
        ("POST http://10.98.0.105:7001/call", "POST http://w-aaaa:rpc/call"),
        ("dial ('10.98.0.103', 8080) failed", "dial ('w-e000:weights') failed"),
        (
            "HTTPConnectionPool(host='127.0.0.1', port=9001): Read timed out",
            "HTTPConnectionPool(host='w-e000:weights'): Read timed out",
        ),
        ("closed by peer [10.98.0.105]:45678", "closed by peer w-aaaa:other"),
        ("localhost:9001 answers", "w-e000:weights answers"),
        ("bound to 127.0.0.1", "bound to loopback"),
        ("listening on port 7001", "listening on port other"),
        ("started pid 41", "started pid w-aaaa"),
        ("<Connection object at 0x7f33ab12>", "<Connection object at 0x0>"),
        ('  File "/home/me/code/rlhf/rpc.py", line 7, in call', '  File "rlhf/rpc.py", line 7, in call'),
        ("saved /home/me/runs/r1/job/checkpoints/a", "saved job/checkpoints/a"),
        ("GET /v1/get_binary/k 404", "GET /v1/get_binary/k 404"),
        ("train worker 1 uploads", "train worker w-bbbb uploads"),
        ("missing shards of train worker(s) [1, 0]", "missing shards of train worker(s) [w-aaaa, w-bbbb]"),
        ('f"http://metaserver/v1/{path}"', 'f"http://w-e000/v1/{path}"'),
        ("[W1120 16:02:11.249286261 socket.cpp:207] no name", "[W socket.cpp:207] no name"),
        ("E: [/__w/p/gloo/tcp/pair.cc:553] Connection closed", "E: [pair.cc:553] Connection closed"),
        ("stored v1/shard1", "stored v1/shard of w-bbbb"),
        ("submitted: train1, train0", "submitted: w-aaaa, w-bbbb"),
        ("running on host=trainers", "running on host=n-1111"),
        ("2 rollouts, 128 samples, default 0.5, (1/3)/2 a/b", "2 rollouts, 128 samples, default 0.5, (1/3)/2 a/b"),
        ("Fatal Python error: Segmentation fault", "Fatal Python error: Segmentation fault"),
        ("2026-01-01 00:00:00.250 INFO train0: up", "2026-01-01 00:01:40.250 INFO w-aaaa: up"),
        ("since 1790000000.5 s", "since 1790000100.5 s"),
    ],
)
def test_known_tokens_are_rewritten(raw: str, evidence: str) -> None:
    """Every known identifier becomes its neutral name, and ordinary words stay."""
    assert clean(raw) == evidence


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("peer 192.168.7.9 left", "unknown address"),
        ("see https://example.org/x", "unknown address"),
        ("bound to [::1]:80", "unknown address"),
        ("pid 4711 died", "unknown pid"),
        ("wrote /etc/hosts", "unknown path"),
        ('File "/opt/x.py", line 1', "unknown path"),
        ("(x)/srv/a", "unknown path"),
        ("log:/srv/a", "unknown path"),
        ("file:///srv/a", "unknown path"),
        ("-I/usr/include", "unknown path"),
        ("train7 is new", "unknown component"),
        ("train worker 7 is new", "unknown component"),
        ("rank 0 of 2", "unknown rank"),
        ("stored v1/shard7", "unknown component"),
        ("at 12:00:01 it broke", "unknown clock"),
        ("on 2026-01-01 it broke", "unknown clock"),
        ("[10/Oct/2026:12:00:00 +0000]", "unknown clock"),
        ("2026-01-01 00:00:00.250 INFO stranger: up", "unknown component"),
        ("the Faultline listener", "forbidden word"),
        ("fault f1 applied", "forbidden word"),
        ("injected delay", "forbidden word"),
        ("prefect flow run", "forbidden word"),
        ("STAGE_SOCKET is set", "forbidden word"),
        ("kind=network-delay", "forbidden word"),
        ("hello from workstation-7", "name of machine or run"),
    ],
)
def test_unknown_tokens_drop_the_line(raw: str, reason: str) -> None:
    """A token of a dangerous shape without known meaning takes its line along, under its reason."""
    with pytest.raises(UnknownToken, match=f"^{reason}$"):
        clean(raw)


def test_dropped_head_takes_its_traceback_along() -> None:
    """A continuation never moves to the record above it, and every dropped line is counted."""
    lines = ["2026-01-01 00:00:00.000 INFO train0: a", "2026-01-01 00:00:01.000 ERROR train0: pid 99", "Traceback", "  x"]
    kept, dropped = sanitise_log([*lines, "2026-01-01 00:00:02.000 INFO train0: b", " 10.0.0.1", " c"], "train0", KNOWN)
    assert [line[-1] for line in kept] == ["a", "b", "c"]
    assert dropped == {"unknown pid": 1, "continues a dropped line": 2, "unknown address": 1}


#: What real logs are made of, one token a line.
TOKENS = """train0
rollout0
metaserver
rank 1
10.98.0.105:7001
10.98.0.103
192.168.0.1
pid 41
pid 42
a/b
x=1
/home/me/runs/r1/job/a
/tmp/x
fault
default
train9
127.0.0.1:9001
step: 3
inject
workstation-7"""
WORDS = st.sampled_from(TOKENS.splitlines())
SEPARATORS = st.sampled_from([" ", ", ", "'", "(", ")", ": ", "=", "[", "]", "\t"])


@example([("train0", "["), ("127.0.0.1:9001", " ")])  # once the bracket went and the two words became one
@given(st.lists(st.tuples(WORDS | st.text(max_size=6), SEPARATORS), max_size=8))
def test_no_raw_identifier_survives(parts: list[tuple[str, str]]) -> None:
    """Whatever tokens meet in a line, the evidence holds no address, component, pid, home path or word of the experimenter."""
    try:
        line = clean("".join(word + separator for word, separator in parts))
    except UnknownToken:
        return
    assert not re.search(r"\b(train|rollout)[-_]?\d|10\.98|192\.168|pid 4|/home/me|/tmp|workstation", line)
    assert not FORBIDDEN.search(line)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)), st.integers(-(10**8), 10**8))
def test_time_shift_keeps_intervals(moment: datetime, later_s: int) -> None:
    """The distance between two times of a case is the same in evidence as in the raw log."""
    stamp = "%Y-%m-%d %H:%M:%S"
    times = (moment, moment + timedelta(seconds=later_s))
    shifted = [clean(f"{time.strftime(stamp)}.123 INFO train0: x")[:19] for time in times]
    told = [datetime.strptime(time, stamp) for time in shifted]
    assert (told[1] - told[0]).total_seconds() == later_s
