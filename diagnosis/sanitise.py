"""From a raw log line to a line of evidence: known identifiers are rewritten token by token, lines with unknown ones dropped.

An allow-list, not a deny-list: a token of a dangerous shape (address, pid, absolute path, clock, component) stays only
if its meaning is known. Every component's log goes through the same rules, and what is dropped is counted by reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

#: Raised with every change of a rule; kept in the manifest so that cases of different rules are told apart.
RULES_VERSION = 2

#: Words that only the experimenter's side uses. "Segmentation fault" is the operating system's own and stays.
FORBIDDEN = re.compile(
    r"faultline|(?<!segmentation )\bfaults?(?![a-z])|(?<![a-z])fault_|inject|chaos|prefect|toxi[cp]|netem|\blab\b|stage_socket"
    r"|\bnoop\b|\bscenarios?\b|\b(process-(kill|pause)|cpu-contention|memory-pressure|network-(delay|bandwidth|reset))\b",
    re.IGNORECASE,
)

_HEAD = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [A-Z]+ )([\w-]+)((?:\.[\w.]+)?: )(.*)$")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)([ T])(\d\d:\d\d:\d\d)")
_EPOCH = re.compile(r"(?<![\w.])1[5-9]\d{8}(?=\.\d|(?![\w.]))")
#: The head that C++ libraries write: level, month and day, clock. The clock is cut out, the record's own time is enough.
_C_HEAD = re.compile(r"\[([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ ")
_BARE_CLOCK = re.compile(
    r"(?<!\d{4}-\d\d-\d\d[ T])(?<![\d:.])\d{1,2}:\d\d:\d\d(?![\d:])"
    r"|\d{4}-\d\d-\d\d(?![ T]\d\d:\d\d:\d\d)|\d/[A-Z][a-z]{2}/\d{4}"
)
_IP = r"(?:\d{1,3}(?:\.\d{1,3}){3}|localhost)"
_ENDPOINT = re.compile(
    rf"host='(?P<h>{_IP})', port=(?P<hp>\d+)|\('(?P<t>{_IP})', (?P<tp>\d+)\)"
    rf"|(?:(?<!\w)\[)?(?<![\w.])(?P<a>{_IP})\]?:(?P<ap>\d+)"
)
_BARE_IP = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{1,4})?::(?:[0-9a-fA-F]{1,4}:?)*(?![\w:])")
_PORT = re.compile(r"\b(port[ =:]+)\d+", re.IGNORECASE)
_URL_NAME = re.compile(r"\b(https?://)([a-z]+\d*)(?=[:/])")
_URL_HOST = re.compile(r"\bhttps?://(?!w-|n-|loopback)")
_PID = re.compile(r"\b((?:pid|process)[ =:]+)(\d+)", re.IGNORECASE)
_MEMORY = re.compile(r"\b0x[0-9a-fA-F]+")
_RANKED = re.compile(r"(?<![A-Za-z0-9])(train|rollout|reference)[-_]?(\d+)(?![A-Za-z0-9])", re.IGNORECASE)
_RANKS = re.compile(
    r"\b((?:dp_|global_|local_)?rank|worker)([ =:#]+)(\d+)\b|\b(ranks|workers|worker\(s\))([ =:#]+)\[(\d+(?:, ?\d+)*)\]",
    re.IGNORECASE,
)
_SHARD = re.compile(r"\bshard(\d+)\b")
_NEUTRAL_LIST = re.compile(r"w-[0-9a-f]{4}(?:, w-[0-9a-f]{4})+")
_ROLE_WORD = re.compile(r"train|rollout|reference", re.IGNORECASE)
_HOST_PLACE = r"(?P<lead>\bhost(?:name)?[ =:]+['\"]?|@)(?P<host>{hosts})\b"
#: A source file named by a C++ library: the path is that of the machine which built it; the file's name is all it tells.
_COMPILED = re.compile(r"(?<![\w./%+@-])/(?:[\w.@+-]+/)*([\w.-]+\.(?:cc|cpp|cu|h)\b)")
#: A slash that begins a path: not within one, not after a word, not the two of a URL.
_ABSOLUTE = re.compile(
    r"(?P<lead>(?:GET|PUT|POST|HEAD|DELETE|url:) )?"
    r"(?P<path>(?:(?<![\w./%+@:-])|(?<=:)(?!//\w)|(?<=//)|(?=/(?:home|root|tmp|usr|var|opt|etc)/))"
    r"/(?=[\w.@+%-]*[A-Za-z_])[\w.@+%-]+(?:/[\w.@+%-]*)*)"
)
#: Absolute paths that are requests of the job's own protocol.
_KNOWN_PATH = re.compile(r"^/(v1|api/v1|call|health|create_engine|event|score)(/|$)")


class UnknownToken(Exception):  # noqa: N818 - it is the reason of a drop, no failure
    """A line holds something whose meaning is not known; the text is the reason it is counted under."""


@dataclass(frozen=True)
class Rewriting:
    """One run's renaming. ``endpoints`` maps ``ip:port`` to ``neutral:port name``; ``roots`` are path prefixes and substitutes.

    Roots are tried in their order. ``shift_s`` is added to every clock reading. ``strange`` are further words that must not
    pass (machine name, run id).
    """

    components: dict[str, str]
    hosts: dict[str, str]
    endpoints: dict[str, str]
    addresses: dict[str, str]
    pids: dict[int, str]
    roots: tuple[tuple[re.Pattern[str], str], ...]
    shift_s: int
    strange: tuple[str, ...] = ()


def sanitise_log(lines: Iterable[str], owner: str, known: Rewriting) -> tuple[list[str], Counter[str]]:
    """Evidence lines of the log of component ``owner``, and how many lines were dropped for which reason.

    A dropped head takes the lines that continue it along: a traceback must not move to the record above.
    """
    kept: list[str] = []
    dropped: Counter[str] = Counter()
    orphaned = False
    for line in lines:
        is_head = _HEAD.match(line) is not None
        if orphaned and not is_head:
            dropped["continues a dropped line"] += 1
            continue
        try:
            kept.append(sanitise_line(line, owner, known))
            orphaned = False
        except UnknownToken as reason:
            dropped[str(reason)] += 1
            orphaned = is_head
    return kept, dropped


def sanitise_line(line: str, owner: str, known: Rewriting) -> str:
    """The line with every known identifier rewritten. Raises UnknownToken with the reason when it must be dropped."""
    _refuse_words(line, known)
    if not line.isprintable():
        line = "".join(char for char in line if char.isprintable() or char == "\t")
    line = _rewrite_owner(line, known)
    for rule in _RULES:
        line = rule(line, owner, known)
    _refuse_words(line, known)
    return line


def _refuse_words(line: str, known: Rewriting) -> None:
    # The job's own folder is rewritten below, and its path may hold such words without meaning anything by them.
    bare = line
    for prefix, _ in known.roots:
        bare = prefix.sub("", bare)
    if FORBIDDEN.search(bare):
        raise UnknownToken("forbidden word")
    if any(word in bare for word in known.strange):
        raise UnknownToken("name of machine or run")


def _rewrite_owner(line: str, known: Rewriting) -> str:
    match = _HEAD.match(line)
    if match is None:
        return line
    if match[2] not in known.components:
        raise UnknownToken("unknown component")
    return f"{match[1]}{known.components[match[2]]}{match[3]}{match[4]}"


def _clock(line: str, _owner: str, known: Rewriting) -> str:
    line = _STAMP.sub(lambda m: _shifted(m[1], m[2], m[3], known.shift_s), line)
    line = _EPOCH.sub(lambda m: str(int(m[0]) + known.shift_s), line)
    line = _C_HEAD.sub(r"[\1 ", line)
    if _BARE_CLOCK.search(line):
        raise UnknownToken("unknown clock")
    return line


def _shifted(day: str, between: str, clock: str, shift_s: int) -> str:
    try:
        moment = datetime.fromisoformat(f"{day} {clock}") + timedelta(seconds=shift_s)
    except (ValueError, OverflowError) as error:
        raise UnknownToken("unknown clock") from error
    return moment.strftime(f"%Y-%m-%d{between}%H:%M:%S")


def _paths(line: str, _owner: str, known: Rewriting) -> str:
    for prefix, substitute in known.roots:
        line = prefix.sub(substitute, line)
    line = _COMPILED.sub(r"\1", line)
    for match in _ABSOLUTE.finditer(line):
        if not (match["lead"] or _KNOWN_PATH.match(match["path"])):
            raise UnknownToken("unknown path")
    return line


def _network(line: str, _owner: str, known: Rewriting) -> str:
    line = _ENDPOINT.sub(lambda m: _endpoint(m, known), line)
    line = _URL_NAME.sub(lambda m: m[1] + known.components.get(m[2], m[2]), line)
    line = _BARE_IP.sub(lambda m: _address(m[0], known), line)
    if _IPV6.search(line) or _URL_HOST.search(line):
        raise UnknownToken("unknown address")
    return _PORT.sub(r"\1other", line)


def _endpoint(match: re.Match[str], known: Rewriting) -> str:
    ip = (match["h"] or match["t"] or match["a"]).replace("localhost", "127.0.0.1")
    port = match["hp"] or match["tp"] or match["ap"]
    place = known.endpoints.get(f"{ip}:{port}") or f"{_address(ip, known)}:other"
    return f"host='{place}'" if match["h"] else f"('{place}')" if match["t"] else place


def _address(ip: str, known: Rewriting) -> str:
    if ip in known.addresses:
        return known.addresses[ip]
    if ip.startswith("127.") or ip == "0.0.0.0":  # noqa: S104 - a word in a log, nothing is bound
        return "loopback"
    raise UnknownToken("unknown address")


def _processes(line: str, _owner: str, known: Rewriting) -> str:
    def neutral(match: re.Match[str]) -> str:
        if int(match[2]) not in known.pids:
            raise UnknownToken("unknown pid")
        return match[1] + known.pids[int(match[2])]

    return _MEMORY.sub("0x0", _PID.sub(neutral, line))


def _components(line: str, _owner: str, known: Rewriting) -> str:
    """Lists of names are sorted: their order would tell the ranks."""
    line = _RANKED.sub(lambda m: _component(m[1], m[2], known), line)
    return _NEUTRAL_LIST.sub(lambda m: ", ".join(sorted(m[0].split(", "))), line)


def _component(role: str, rank: str, known: Rewriting) -> str:
    name = f"{role.lower()}{int(rank)}"
    if name not in known.components:
        raise UnknownToken("unknown component")
    return known.components[name]


def _ranks(line: str, owner: str, known: Rewriting) -> str:
    """``worker 1`` becomes ``worker w-3fa1``: the role is the last one named before it, else that of the log's owner."""

    def neutral(match: re.Match[str]) -> str:
        before = _ROLE_WORD.findall(line[: match.start()]) or _ROLE_WORD.findall(owner)
        if not before:
            raise UnknownToken("unknown rank")
        if match[3]:
            return f"{match[1]}{match[2]}{_component(before[-1], match[3], known)}"
        named = [_component(before[-1], rank, known) for rank in match[6].split(",")]
        return f"{match[4]}{match[5]}[{', '.join(named)}]"

    return _SHARD.sub(lambda m: f"shard of {_component('train', m[1], known)}", _RANKS.sub(neutral, line))


def _host_names(line: str, _owner: str, known: Rewriting) -> str:
    """Only where a host is meant: "rollouts" is also a word."""
    if not known.hosts:
        return line
    pattern = _HOST_PLACE.format(hosts="|".join(map(re.escape, sorted(known.hosts, key=len, reverse=True))))
    return re.sub(pattern, lambda m: m["lead"] + known.hosts[m["host"]], line)


#: In this order: ranks look at role words that the component rule leaves alone; paths go before addresses within them.
_RULES: tuple[Callable[[str, str, Rewriting], str], ...] = (
    _clock,
    _paths,
    _network,
    _processes,
    _ranks,
    _components,
    _host_names,
)
