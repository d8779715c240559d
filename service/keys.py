"""A keys file in; for each request, whose key it carries, or the Problem that refuses it.

A line of the file, written by ``python -m service new-key``:

    NAME  user|admin  SHA-256-OF-THE-KEY  [REQUESTS-PER-SECOND]

Only the hash is kept, so whoever reads the file cannot use what stands there. One plain round of
SHA-256 is right for it: a key is 256 random bits, which nobody guesses however fast the hash is;
slow, salted hashes are for passwords, which people choose. Nothing here says a key aloud, in a
log, an error or a problem: at most its name.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from service import page
from service.problems import Problem

USER, ADMIN = "user", "admin"
ROLES = (USER, ADMIN)
# For probes, which carry no key, and for the pages that say how to use one.
OPEN_PATHS = frozenset({"/livez", "/readyz", "/docs", "/openapi.json"}) | page.PATHS
# What a refused client is told it may send (RFC 6750, section 3).
_CHALLENGE = {"www-authenticate": 'Bearer realm="nametag"'}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class KeysError(ValueError):
    """A keys file that cannot be used. The message is one line, and quotes nothing of the file."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of one key; not the key."""

    name: str
    role: str
    digest: bytes
    rate: float | None = None  # requests per second, of all workers together; None is no limit

    @property
    def is_admin(self) -> bool:
        return self.role == ADMIN

    @property
    def line(self) -> str:
        """As the keys file has it."""
        rate = "" if self.rate is None else f" {self.rate:g}"
        return f"{self.name} {self.role} {self.digest.hex()}{rate}"


def digest_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def new_key(name: str, role: str = USER, rate: float | None = None) -> tuple[str, Key]:
    """A new random key, and what to remember of it. Raises KeysError for a name or rate that is none."""
    secret = "nametag_" + secrets.token_urlsafe(32)
    return secret, _checked(name, role, digest_of(secret.encode()).hex(), rate)


def _checked(name: str, role: str, digest: str, rate: float | None) -> Key:
    # What is wrong is named and not quoted: it may be a key in the wrong place.
    if not _NAME.fullmatch(name):
        raise KeysError("the name is expected to be 1 to 64 letters, digits, dots, dashes or underscores")
    if role not in ROLES:
        raise KeysError(f"the role is expected to be one of {', '.join(ROLES)}")
    if not _DIGEST.fullmatch(digest):
        raise KeysError("the hash is expected to be 64 hexadecimal digits, in lower case")
    if rate is not None and not 0 < rate < math.inf:
        raise KeysError("the rate is expected to be a number of requests per second, above 0")
    return Key(name, role, bytes.fromhex(digest), rate)


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file. Raises KeysError, naming the line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    keys: list[Key] = []
    for number, line in enumerate(lines, 1):
        parts = line.partition("#")[0].split()
        if not parts:
            continue
        try:
            key = _of_parts(parts)
            for other in keys:
                if key.name == other.name or key.digest == other.digest:
                    raise KeysError(f"the same name or hash as {other.name}")
        except KeysError as error:
            raise KeysError(f"{path}:{number}: {error}") from None
        keys.append(key)
    if not keys:
        raise KeysError(f"{path}: holds no keys, so nobody could ask anything")
    return tuple(keys)


def read_secret(path: Path, *, least_chars: int) -> bytes:
    """The secret that a file holds, without the white space about it. Raises KeysError."""
    try:
        secret = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if len(secret) < least_chars:
        raise KeysError(f"{path}: {len(secret)} characters, and at least {least_chars} are expected")
    return secret.encode()


def _of_parts(parts: list[str]) -> Key:
    if len(parts) not in (3, 4):
        raise KeysError(f"{len(parts)} words: a name, a role, a hash and at most a rate are expected")
    try:
        rate = float(parts[3]) if len(parts) == 4 else None
    except ValueError:
        rate = math.nan  # refused as any other rate that is none
    return _checked(parts[0], parts[1], parts[2], rate)


class Bucket:
    """Lets ``rate`` requests a second pass on average, and one second's worth at once: a token bucket."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._most = max(1.0, rate)
        self._clock = clock
        self._tokens = self._most
        self._counted_at = clock()

    def wait_s(self) -> float:
        """0 where a request may pass, which takes its token; else how long until one may."""
        now = self._clock()
        self._tokens = min(self._most, self._tokens + (now - self._counted_at) * self._rate)
        self._counted_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


class Keyring:
    """All keys of a service, and how much each has asked of this process.

    Workers count for themselves, each a ``workers``-th of a key's rate: together they never let
    more pass. A client with a single connection meets a single worker, and gets that worker's part.
    ``has_rates``: whether they are counted here, or were by whoever passes requests on.
    """

    def __init__(
        self,
        keys: Iterable[Key],
        *,
        workers: int = 1,
        has_rates: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = tuple(keys)
        self.has_admin = any(key.is_admin for key in self._keys)
        rates = {key.name: key.rate for key in self._keys if key.rate is not None and has_rates}
        self._buckets = {name: Bucket(rate / workers, clock) for name, rate in rates.items()}

    def admitted(self, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        """Whose key the headers carry. Raises Problem: key-missing, key-wrong, rate-limited."""
        secret = _presented(headers)
        if secret is None:
            raise Problem(
                "key-missing",
                "send a key, as Authorization: Bearer KEY or as X-API-Key: KEY",
                headers=_CHALLENGE,
            )
        digest = digest_of(secret)
        found = None
        for key in self._keys:  # all of them: how long it takes must not tell which one it was
            if hmac.compare_digest(digest, key.digest):
                found = key
        if found is None:
            raise Problem("key-wrong", "this key is not one of the service's")
        bucket = self._buckets.get(found.name)
        if bucket is not None and (wait_s := bucket.wait_s()) > 0:
            raise Problem(
                "rate-limited",
                f"this key may ask {found.rate:g} times a second, of all workers together",
                headers={"retry-after": str(max(1, math.ceil(wait_s)))},
            )
        return found


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key that a request carries. Authorization goes first, where it is of the Bearer scheme."""
    given = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return token.strip()
        elif name == b"x-api-key":
            given = value.strip()
    return given
