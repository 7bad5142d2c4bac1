"""The job's name server: ``python -m injection.names SCRATCH ADDRESS:PORT NAMES.json`` (name -> IPv4 address).

It answers over UDP. Over the unix socket ``SCRATCH/names`` the hands make it answer wrongly: a connection says one JSON line
(`client`, an address or "" for all; `name`; `how`; `id`) and has its way for as long as it stays open, or until
another says ``{"clear": id}``. Of several about one name the latest counts.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from injection.virtual.addresses import NOBODY

SOCKET_NAME = "names"
#: No answer may be kept: it could outlive what it tells.
TTL_S = 0


@dataclass(frozen=True)
class Lie:
    """Whom it is told (the resolver's address, "" = everybody), about which name, and how."""

    id: str
    client: str
    name: str
    how: str


class NameServer:
    """Names, and the lies in force, by the connection that holds each."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.lies: dict[socket.socket, Lie] = {}

    def answer(self, packet: bytes, client: str) -> bytes | None:
        """The reply to a query; None = silence, which is what garbage gets."""
        try:
            query = dns.message.from_wire(packet)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            return None
        name = question.name.to_text(omit_final_dot=True).lower()
        how = next((lie.how for lie in reversed(self.lies.values()) if lie.name == name and lie.client in ("", client)), "")
        if how == "timeout":
            return None
        reply = dns.message.make_response(query)
        address = NOBODY if how == "wrong" else self.names.get(name)
        if how == "servfail":
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif how == "nxdomain" or address is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.A:
            reply.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", "A", address))
        return reply.to_wire()

    def hear(self, connection: socket.socket) -> bool:
        """A line of the hands, or the end of their connection; false when it is over."""
        try:
            asked: dict[str, Any] = json.loads(connection.recv(4096))
            answer = "done"
            if "stands" in asked:
                answer = "yes" if any(lie.id == asked["stands"] for lie in self.lies.values()) else "no"
            elif "clear" in asked:
                self.lies = {held: lie for held, lie in self.lies.items() if lie.id != asked["clear"]}
            else:
                self.lies[connection] = Lie(**asked)
            connection.sendall(answer.encode() + b"\n")
        except (OSError, ValueError, TypeError):  # it has hung up, was killed, or makes no sense
            self.lies.pop(connection, None)
            return False
        return True

    def serve(self, questions: socket.socket, hands: socket.socket) -> None:
        """Answer for ever."""
        selector = selectors.DefaultSelector()
        for listener in (questions, hands):
            selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                stream = key.fileobj
                assert isinstance(stream, socket.socket)
                if stream is questions:
                    packet, client = questions.recvfrom(4096)
                    reply = self.answer(packet, client[0])
                    if reply is not None:
                        questions.sendto(reply, client)
                elif stream is hands:
                    selector.register(hands.accept()[0], selectors.EVENT_READ)
                elif not self.hear(stream):
                    selector.unregister(stream)
                    stream.close()


def main(argv: list[str]) -> None:
    """Bind, say so, serve."""
    scratch, where, table = Path(argv[0]), argv[1], json.loads(Path(argv[2]).read_text())
    address, port = where.rsplit(":", 1)
    questions = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    questions.bind((address, int(port)))
    hands = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    hands.bind(str(scratch / SOCKET_NAME))
    hands.listen(16)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    NameServer(table).serve(questions, hands)


if __name__ == "__main__":
    main(sys.argv[1:])
