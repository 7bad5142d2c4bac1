"""`faultline proxy` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import requests

from tests.flows.test_command import COMMAND, call


def test_the_proxy_answers_until_it_is_told_to_end(tmp_path: Path) -> None:
    """It says where its API is, has the proxies of its file, and ends with success when interrupted."""
    config = tmp_path / "links.json"
    config.write_text(json.dumps([{"name": "one", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"}]))
    argv = [str(COMMAND), "proxy", "--listen", "127.0.0.1:0", "--config", str(config)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ | {"FAULTLINE_HOME": str(tmp_path)})
    api = process.stdout.readline().rpartition(" ")[2].strip()
    assert list(requests.get(f"{api}/proxies", timeout=10).json()) == ["one"]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    process.stdout.close()


def test_an_address_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    """A wrong address and a port that is in use are told in one sentence."""
    refused = call(tmp_path, "proxy", "--listen", "nowhere")
    assert refused.returncode == 2 and "not an address of the form host:port: 'nowhere'" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
