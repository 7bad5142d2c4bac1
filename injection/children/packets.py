"""Holds, loses or refuses packets of one link: `injection/packets.py`, whose place it is told in the first line."""

import json
import sys

sys.stdout.write("ready\n")
sys.stdout.flush()
order = json.loads(sys.stdin.readline())
sys.path.insert(0, order["code"])

from injection.packets import serve  # noqa: E402 - only now it is known where that is

serve(order)
