"""Read the name table of the job: who dials whom, from which address to which."""

from __future__ import annotations

import json
import logging
from pathlib import Path

logger = logging.getLogger("sampler")

#: (host of the dialler, its address, the address dialled) -> link.
Links = dict[tuple[str, str, str], str]


class NameTable:
    """The links of a file that may not be there yet, and may change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = -1
        self._links: Links = {}
        self._relayed: frozenset[str] = frozenset()

    def links(self) -> Links:
        """As the file has them now; one that is no name table is told once and changes nothing."""
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp != self._stamp:
                self._stamp = stamp
                table = json.loads(self._path.read_bytes())
                self._links, self._relayed = links_of(table), relayed_in(table)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.warning("%s is no name table: %s", self._path.name, error)
        return self._links

    def relayed(self) -> frozenset[str]:
        """Of the links last told, those that do not go straight to where the callee listens."""
        return self._relayed


def links_of(table: dict[str, dict[str, str]]) -> Links:
    """(host, the dialler's address, the address dialled) -> link, from the name table. A link dialled by name goes where
    it listens; of two links between the same addresses (rpc and event, without proxies) the first stands for both.
    """
    links: Links = {}
    for name, dialled in table["dial"].items():
        source, _, rest = name.partition(">")
        callee, _, purpose = rest.partition(":")
        target = dialled if _numeric(dialled) else table["listen"][callee][purpose]  # type: ignore[index]
        links.setdefault((table["host"][source], table["bind"][source], target), name)
    return links


def relayed_in(table: dict[str, dict[str, str]]) -> frozenset[str]:
    """Links whose dialler is sent elsewhere than the callee listens. A name is the callee's own."""
    ends = {name: name.partition(">")[2].partition(":") for name in table["dial"]}
    straight = {name: table["listen"][callee][purpose] for name, (callee, _, purpose) in ends.items()}  # type: ignore[index]
    return frozenset(name for name, dialled in table["dial"].items() if _numeric(dialled) and dialled != straight[name])


def _numeric(dialled: str) -> bool:
    return dialled.rpartition(":")[0].replace(".", "").isdigit()
