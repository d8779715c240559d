"""Environment variables in, one frozen Settings out. The only place that knows their names.

Every setting is a field below; its variable is NAMETAG_ and the field's name in capitals. What
``python -m service --help`` prints, and what an error says was expected, comes from here too.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from model.backend import BACKENDS, DEVICES
from service.compat import SURFACES

PREFIX = "NAMETAG_"
ROOT = Path(__file__).resolve().parent.parent
LOG_LEVELS = ("debug", "info", "warning", "error")
MIB = 1 << 20
# As browsers send it (RFC 6454): without a path, not even a slash, which would never match.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,]+")


class SettingsError(ValueError):
    """A variable whose value cannot be used. The message names it, the value and what was expected."""


@dataclass(frozen=True)
class _Kind:
    """How a value is read from text, and what is said when it cannot be."""

    read: Callable[[str], Any]  # raises ValueError
    expected: str


def _whole(least: int, most: int | None = None) -> _Kind:
    def read(raw: str) -> int:
        value = int(raw)
        if value < least or (most is not None and value > most):
            raise ValueError
        return value

    return _Kind(read, f"a whole number, at least {least}" + (f" and at most {most}" if most else ""))


def _seconds(above: float) -> _Kind:
    def read(raw: str) -> float:
        value = float(raw)
        if not (above < value < math.inf or (above == value == 0)):
            raise ValueError
        return value

    return _Kind(read, "seconds, " + ("0 or more" if above == 0 else f"more than {above:g}"))


def _one_of(names: tuple[str, ...]) -> _Kind:
    def read(raw: str) -> str:
        if raw not in names:
            raise ValueError
        return raw

    return _Kind(read, "one of " + ", ".join(names))


def _text(raw: str) -> str:
    return raw


def _folders(raw: str) -> tuple[Path, ...]:
    folders = tuple(Path(part) for part in raw.split(os.pathsep) if part)
    if not folders:
        raise ValueError
    return folders


def _path(raw: str) -> Path:
    return Path(raw)


def _origins(raw: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in raw.split(",") if part.strip())
    if not all(each == "*" or _ORIGIN.fullmatch(each) for each in origins):
        raise ValueError
    return origins


def _surfaces(raw: str) -> str:
    if raw not in ("auto", "all", "none") and not {part.strip() for part in raw.split(",")} <= set(
        SURFACES
    ):
        raise ValueError
    return raw


def _setting(default: Any, kind: _Kind, meaning: str) -> Any:
    return field(default=default, metadata={"kind": kind, "meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """Everything about one service that its operator may choose."""

    host: str = _setting("127.0.0.1", _Kind(_text, "an address"), "address to listen on; 0.0.0.0 is all")
    port: int = _setting(8000, _whole(0, 65535), "port to listen on; 0 picks a free one")
    model: tuple[Path, ...] = _setting(
        (ROOT / "artefacts" / "en-person",),
        _Kind(_folders, f"one or more model folders, separated by {os.pathsep!r}"),
        f"model folders, separated by {os.pathsep!r}; the first is the default model",
    )
    models_dir: Path | None = _setting(  # noqa: RUF009 - a path is frozen too
        None,
        _Kind(_path, "a folder of model folders"),
        "below it, too, an admin's key may load models from; from no other folder",
    )
    load_timeout_s: float = _setting(
        120.0, _seconds(above=0.001), "in which all workers must have loaded a model, or none serves it"
    )
    device: str = _setting("auto", _one_of(DEVICES), "where to compute")
    backend: str = _setting(
        "auto", _one_of(BACKENDS), "what computes: on a CPU auto is the kernel, or ONNX Runtime"
    )
    workers: int = _setting(
        0,
        _whole(0, 256),
        "processes, each with its own copy of the models; 0 is one for each CPU that may be "
        "used, by affinity and cgroup quota, and a single one where a GPU computes: more are of no use",
    )
    # Intra-op threads spin while they wait for each other: two collapse when anything else runs.
    threads: int = _setting(1, _whole(1, 256), "threads one batch computes with; rather add workers")

    keys_file: Path | None = _setting(  # noqa: RUF009 - a path is frozen too
        None,
        _Kind(_path, "a file that `python -m service new-key` writes lines for"),
        "keys that requests must carry; none are asked for where it is not set. Read at the start",
    )
    redaction_key_file: Path | None = _setting(  # noqa: RUF009 - a path is frozen too
        None,
        _Kind(_path, "a file that holds a secret of 16 characters or more"),
        "the key of POST /v1/redact's hashes where a request gives none. Read at the start",
    )
    cors_origins: tuple[str, ...] = _setting(
        (),
        _Kind(_origins, "origins like https://example.org, separated by commas, or *"),
        "web pages of these origins may read answers in browsers",
    )

    compat: str = _setting(
        "auto",
        _Kind(_surfaces, f"auto, all, none, or some of {', '.join(SURFACES)}, separated by commas"),
        "surfaces for clients of other services (/docs lists them); auto is all of them where the service "
        "listens on this machine only, else none",
    )
    annotations_dir: Path | None = _setting(  # noqa: RUF009 - a path is frozen too
        None,
        _Kind(_path, "a folder"),
        "where corrections made in Label Studio are kept as training data; none are where it is not set",
    )

    max_body_bytes: int = _setting(16 * MIB, _whole(1), "bytes of one request's body")
    max_sentences: int = _setting(10_000, _whole(1), "sentences of one request")
    max_sentence_tokens: int = _setting(20_000, _whole(1), "tokens of one sentence")
    max_token_chars: int = _setting(4_096, _whole(1), "characters of one token")
    max_document_chars: int = _setting(
        1_000_000, _whole(1), "characters of one document, or of one sentence given as a string"
    )
    max_request_tokens: int = _setting(1_000_000, _whole(1), "tokens of all of one request's sentences")
    max_queue_requests: int = _setting(512, _whole(1), "requests accepted and not yet answered")
    max_queue_bytes: int = _setting(128 * MIB, _whole(1), "body bytes of requests not yet answered")
    # Twice the largest request, so that others are still let in while that one is computed.
    max_queue_tokens: int = _setting(2_000_000, _whole(1), "tokens accepted and not yet tagged, per model")
    max_batch_tokens: int = _setting(
        0,
        _whole(0),
        "padded tokens of one batch; 0 is 1,024 on a CPU, 256 with a context encoder, 16,384 on a GPU",
    )

    offload_bytes: int = _setting(
        64 * 1024,
        _whole(0),
        "requests with larger bodies are answered by a process beside the worker's, which is started when "
        "one comes, so that nobody else waits for them; 0: by the worker. Not where a GPU computes",
    )

    request_timeout_s: float = _setting(60.0, _seconds(above=0.001), "a request's deadline, unless it says")
    max_request_timeout_s: float = _setting(
        300.0,
        _seconds(above=0.001),
        "the longest deadline a request may ask for (X-Request-Timeout); a client that reads nothing of an "
        "answer for so long is hung up on",
    )
    receive_timeout_s: float = _setting(
        30.0, _seconds(above=0.001), "in which a request's head, and then its body, must have arrived"
    )
    keep_alive_s: float = _setting(30.0, _seconds(above=0), "an idle connection is kept open")
    wedged_after_s: float = _setting(
        60.0, _seconds(above=0.001), "one batch may compute before /livez reports the worker as wedged"
    )
    drain_delay_s: float = _setting(
        0.2, _seconds(above=0), "after SIGTERM, not ready, but answering while load balancers look away"
    )
    grace_s: float = _setting(30.0, _seconds(above=0), "after SIGTERM, for accepted work to finish")
    log_level: str = _setting("info", _one_of(LOG_LEVELS), "least level that is logged")
    access_log: str = _setting(
        "on",
        _one_of(("on", "off")),
        "a line for each request, of level info; of level debug for /livez, /readyz and /metrics",
    )

    otel: str = _setting(
        "off", _one_of(("on", "off")), "OpenTelemetry spans, to where OTEL_EXPORTER_OTLP_ENDPOINT says"
    )

    def __post_init__(self) -> None:
        for least, most in (
            ("max_sentence_tokens", "max_request_tokens"),
            ("max_request_tokens", "max_queue_tokens"),
            ("max_body_bytes", "max_queue_bytes"),
            ("request_timeout_s", "max_request_timeout_s"),
        ):
            if getattr(self, most) < getattr(self, least):
                raise SettingsError(
                    f"{variable(most)} is {getattr(self, most)}: at least {variable(least)}, "
                    f"{getattr(self, least)}, is expected"
                )

    @property
    def surfaces(self) -> tuple[str, ...]:
        """The names of the compatible surfaces that are on."""
        if self.compat == "auto":
            return SURFACES if _is_loopback(self.host) else ()
        wanted = {part.strip() for part in self.compat.split(",")}
        return tuple(name for name in SURFACES if self.compat == "all" or name in wanted)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Reads the variables that are set and not empty. Raises SettingsError for the first wrong one."""
        values = {}
        for each in fields(cls):
            raw = environ.get(variable(each.name), "").strip()
            if raw:
                kind: _Kind = each.metadata["kind"]
                try:
                    values[each.name] = kind.read(raw)
                except ValueError:
                    raise SettingsError(
                        f"{variable(each.name)} is {raw!r}: {kind.expected} is expected"
                    ) from None
        return cls(**values)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that no setting reads: most likely misspelt."""
    known = {variable(each.name) for each in fields(Settings)}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def help_text() -> str:
    """All settings with their defaults and meanings, a paragraph each."""
    lines = []
    for each in fields(Settings):
        default = each.default
        assert default is not MISSING
        if default is None or default == ():
            shown = "none"
        elif isinstance(default, tuple):
            shown = os.pathsep.join(str(p.relative_to(ROOT)) for p in default) + " beside this package"
        else:
            shown = f"{default:,}" if isinstance(default, int) and default >= 10_000 else f"{default}"
        kind: _Kind = each.metadata["kind"]
        lines.append(f"  {variable(each.name)}\n      {each.metadata['meaning']}")
        lines.append(f"      {kind.expected} (default: {shown})")
    return "\n".join(lines)
