"""Seal: hashes notice every changed byte, and the commitment fits one label and one salt."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.layout import RunPaths
from storage.seal import commit, file_hashes, merkle_root, new_salt, verify_seal

LABEL = {"fault": True, "component": "train1", "stage": "train", "kinds": ["process-kill"], "peer": "", "step": 4}


@pytest.fixture
def sealed(tmp_path):
    paths = RunPaths(tmp_path / "run")
    (paths.evidence / "t0").mkdir(parents=True)
    (paths.evidence / "t0" / "controller.log").write_text("one\ntwo\n")
    (paths.evidence / "t0" / "worker.log").write_text("")
    salt = new_salt()
    (paths.evidence / "commitment.txt").write_text(commit(LABEL, salt) + "\n")
    files = file_hashes(paths.evidence, leave_out=("commitment.txt",))
    (paths.evidence / "manifest.json").write_text(json.dumps({"files": files}))
    return paths, salt


def test_an_untouched_case_verifies(sealed):
    """No problem for a case as it was sealed, with or without truth at hand."""
    paths, salt = sealed
    assert verify_seal(paths) == [] and verify_seal(paths, LABEL, salt) == []


def test_every_kind_of_tampering_is_named(sealed):
    """A changed byte, a missing file, an added file, another label, another salt: each is told apart."""
    paths, salt = sealed
    (paths.evidence / "t0" / "controller.log").write_text("one\ntwO\n")
    (paths.evidence / "t0" / "worker.log").unlink()
    (paths.evidence / "t0" / "extra.log").write_text("x")
    assert verify_seal(paths) == ["t0/extra.log: not in the manifest", "t0/worker.log: missing", "t0/controller.log: altered"]
    wrong = ["the commitment does not fit label and salt"]
    assert verify_seal(paths, {**LABEL, "step": 5}, salt)[-1:] == wrong
    assert verify_seal(paths, LABEL, new_salt())[-1:] == wrong
    assert "cannot be checked" in verify_seal(paths, LABEL, "abcd")[-1]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"files": 3}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_manifest_is_a_problem_not_a_crash(sealed, content):
    """Whatever stands in the manifest, verification answers with a sentence."""
    paths, _ = sealed
    (paths.evidence / "manifest.json").write_bytes(content)
    assert verify_seal(paths)


def test_a_link_in_the_evidence_is_refused(sealed):
    """Evidence is plain bytes: a link would let it change after sealing."""
    paths, _ = sealed
    (paths.evidence / "t0" / "link.log").symlink_to("/etc/hostname")
    assert "not a plain file" in verify_seal(paths)[0]


def test_the_commitment_is_what_the_page_says():
    """sha256(canonical label || 32-byte salt), by independent arithmetic; a short salt is refused."""
    salt = "ab" * 32
    told = hashlib.sha256(b'{"a":1,"b":[2]}' + bytes.fromhex(salt)).hexdigest()
    assert commit({"b": [2], "a": 1}, salt) == told
    with pytest.raises(ValueError, match="32 bytes"):
        commit({"a": 1}, "ab")


HASHES = st.dictionaries(st.text("abc/", min_size=1, max_size=6), st.fixed_dictionaries({"sha256": st.text("01", max_size=4)}))


@given(HASHES, HASHES)
def test_the_root_tells_file_sets_apart(one, other):
    """Two different sets of hashes have different roots, equal sets the same, in whatever order they are told."""
    assert (merkle_root(one) == merkle_root(other)) == (one == other)
    assert merkle_root(dict(reversed(one.items()))) == merkle_root(one)
