"""How the lab's own processes are started where the job can see them: by a file that says nothing and is gone at once.

The process table tells `python /tmp/site-.../3f9c01`; module and arguments stand in that file, which removes itself when it is
read. In a place it lies in the place's folder, so one that was never read goes with that.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

CODE = Path(__file__).resolve().parent.parent
TEXT = """import os, runpy, sys
os.unlink(__file__)
sys.path[0] = {code!r}
sys.argv = {argv!r}
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


def entry(module: str, *arguments: object, folder: Path) -> list[str]:
    """The command line that runs a module of ours once, as `python -m MODULE ARGUMENTS` would. Raises OSError."""
    file = folder / secrets.token_hex(4)
    argv = [str(file), *(str(argument) for argument in arguments)]
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
        new.write(TEXT.format(code=str(CODE), argv=argv, module=module))
    return [sys.executable, str(file)]
