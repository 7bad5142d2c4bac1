"""The closed words of one case: which components, stages and kinds an answer may name, and how the job hangs together.

All of it is public: it comes from the case's manifest, and component and host names are the neutral ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from storage.records import FaultKind, Stage

STAGES: tuple[str, ...] = tuple(str(stage) for stage in Stage)

#: "Nothing was done" is answered by ``fault=False``, so it is no kind that an answer may name.
KINDS: tuple[str, ...] = tuple(str(kind) for kind in FaultKind if kind is not FaultKind.NOOP)

#: Evidence tiers, each containing the ones before it.
TIERS: tuple[str, ...] = ("T0", "T1", "T2", "T3")


@dataclass(frozen=True)
class Vocabulary:
    """What a diagnoser is told besides the logs: ``roles`` maps a component to its role, ``hosts`` to its host.

    ``links`` are (src, dst, purpose), ``waits`` are (waiter, awaited).
    """

    case_id: str
    roles: dict[str, str]
    links: tuple[tuple[str, str, str], ...] = ()
    stages: tuple[str, ...] = STAGES
    kinds: tuple[str, ...] = KINDS
    hosts: dict[str, str] = field(default_factory=dict)
    waits: tuple[tuple[str, str], ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """Every component of the case, sorted by its neutral name."""
        return tuple(sorted(self.roles))

    def of_role(self, role: str) -> tuple[str, ...]:
        """The components with this role, sorted."""
        return tuple(name for name in self.components if self.roles[name] == role)


def read_vocabulary(manifest: dict[str, Any]) -> Vocabulary:
    """The vocabulary in a case's manifest; a manifest without it raises KeyError."""
    words, topology = manifest["vocabulary"], manifest["topology"]
    return Vocabulary(
        case_id=manifest["case_id"],
        roles={name: facts["role"] for name, facts in topology["components"].items()},
        links=tuple((link["src"], link["dst"], link["purpose"]) for link in topology["links"]),
        stages=tuple(words["stages"]),
        kinds=tuple(words["kinds"]),
        hosts={name: facts["host"] for name, facts in topology["components"].items()},
        waits=tuple((pair["waiter"], pair["awaited"]) for pair in topology["waits"]),
    )
