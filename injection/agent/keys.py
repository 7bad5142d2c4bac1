"""What agent and experimenter know each other by: a folder each, with certificate, key, the CA that both trust, and tokens.

    ca.pem  cert.pem  key.pem  tokens      (a token a line, NAME:TOKEN; FAULTLINE_AGENT_TOKEN takes the file's place)

Key and tokens are read only where nobody but their owner may read them. Certificates of one's own go by the same names.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA, CERTIFICATE, KEY, TOKENS = "ca.pem", "cert.pem", "key.pem", "tokens"
TOKEN_VARIABLE = "FAULTLINE_AGENT_TOKEN"  # noqa: S105 - where a token is told, not one
TOKEN_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([A-Za-z0-9._~+/=-]{16,512})")
VALID = timedelta(days=365)
#: Clocks differ; a certificate that was made this moment is valid on the other host as well.
CLOCKS_DIFFER = timedelta(minutes=5)
PRIVATE, PUBLIC = 0o600, 0o644
PURPOSES = {"agent": ExtendedKeyUsageOID.SERVER_AUTH, "experimenter": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True)
class Keys:
    """One side's folder, read: PEM texts, and token -> name."""

    ca: bytes
    certificate: bytes
    key: bytes
    tokens: dict[str, str]

    def bearer(self) -> str:
        """What a request says of who sends it: the first token with its name."""
        token, name = next(iter(self.tokens.items()))
        return f"Bearer {name}:{token}"

    def name_of(self, bearer: str) -> str:
        """Whose token a request bears; empty for nobody's. All are compared, each in constant time."""
        found = ""
        for token, name in self.tokens.items():
            if secrets.compare_digest(f"Bearer {name}:{token}".encode(), bearer.encode()):
                found = name
        return found


def read_keys(folder: Path, environment: Mapping[str, str] = os.environ) -> Keys:
    """Read one side's folder. Raises FileNotFoundError, or ValueError with one sentence: others may read it, it has expired."""
    certificate = (folder / CERTIFICATE).read_bytes()
    _check_time(folder / CERTIFICATE, certificate)
    lines = environment.get(TOKEN_VARIABLE, "").split() or _private(folder / TOKENS).decode().split()
    return Keys((folder / CA).read_bytes(), certificate, _private(folder / KEY), _tokens(lines, folder / TOKENS))


def _private(path: Path) -> bytes:
    """The content of a file that is its owner's alone, and that owner's whose process this is."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ValueError(f"{path} may be read or written by others: it must belong to this user, with mode 600")
        return file.read()


def _tokens(lines: Sequence[str], path: Path) -> dict[str, str]:
    found = {}
    for line in lines:
        match = TOKEN_LINE.fullmatch(line)
        if not match:
            raise ValueError(f"{path}: a token is a line NAME:TOKEN, the token at least 16 characters long")
        found[match[2]] = match[1]
    if not found:
        raise ValueError(f"{path}: there is no token")
    return found


def _check_time(path: Path, pem: bytes) -> None:
    try:
        until = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    except ValueError as error:
        raise ValueError(f"{path} is not a certificate: {error}") from error
    if until < datetime.now(UTC):
        raise ValueError(f"{path} expired at {until:%Y-%m-%d %H:%M} UTC: make new ones (faultline agent make-certificates)")


def make_keys(folder: Path, names: Sequence[str], valid: timedelta = VALID) -> None:
    """Make a CA and both sides' folders, `folder/agent` and `folder/experimenter`; the agent is dialled by one of `names`.

    Raises FileExistsError rather than overwrite anything. The CA's key stays in `folder`: further certificates need it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority, ca = _authority(valid)
    _write(folder / "ca-key.pem", _pem(authority), PRIVATE)
    token = f"experimenter:{secrets.token_urlsafe(32)}\n".encode()
    for side, purpose in PURPOSES.items():
        own = ec.generate_private_key(ec.SECP256R1())
        signed = _certificate(side, names if side == "agent" else (), own.public_key(), purpose, authority, ca, valid)
        (folder / side).mkdir(mode=0o700)
        _write(folder / side / CA, ca.public_bytes(serialization.Encoding.PEM), PUBLIC)
        _write(folder / side / CERTIFICATE, signed.public_bytes(serialization.Encoding.PEM), PUBLIC)
        _write(folder / side / KEY, _pem(own), PRIVATE)
        _write(folder / side / TOKENS, token, PRIVATE)


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: str, issuer: x509.Name, valid: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    begun = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(issuer)
    begun = begun.serial_number(x509.random_serial_number())
    return begun.not_valid_before(min(now, now + valid) - CLOCKS_DIFFER).not_valid_after(now + valid)


def _authority(valid: timedelta) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("host agents")
    builder = _builder("host agents", name, max(valid, VALID)).public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return key, builder.sign(key, hashes.SHA256())


def _certificate(
    subject: str,
    names: Sequence[str],
    public: ec.EllipticCurvePublicKey,
    purpose: x509.ObjectIdentifier,
    authority: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    valid: timedelta,
) -> x509.Certificate:
    builder = _builder(subject, ca.subject, valid).public_key(public)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    builder = builder.add_extension(identifier, critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_called(name) for name in names]), critical=False)
    return builder.sign(authority, hashes.SHA256())


def _called(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
