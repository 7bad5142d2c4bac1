"""Holds, loses or refuses packets of one link; see `injection/packets.py`."""

from injection.packets import main

main()
