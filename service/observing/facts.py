"""What becomes known of a request while it is answered, for its line in the access log.

Any step can reach them without being handed them: ``facts()`` are those of the request under way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id_of(given: bytes = b"") -> bytes:
    """The one that the client gave, if that is a sane one; else a new one."""
    return given if _SANE_ID.fullmatch(given) else os.urandom(12).hex().encode()


@dataclass(slots=True)
class Facts:
    """Never submitted text. Whoever learns one of these sets it."""

    request_id: str = ""
    method: str = ""
    path: str = ""  # its template: "/v1/models/{name}"
    trace_id: str = ""  # of the W3C traceparent, if there was one
    model: str = ""  # name@version
    key: str = ""  # the name of the API key, never the key
    problem: str = ""  # the code, where the answer is one
    n_sentences: int = 0
    n_tokens: int = 0
    span: Any = None  # OpenTelemetry's, where spans are made
    make_step: Callable[[Facts, str], AbstractContextManager[None]] | None = None

    def step(self, name: str) -> AbstractContextManager[None]:
        """A block that is one step of the answer: a span, where spans are made."""
        return _NO_SPAN if self.make_step is None else self.make_step(self, name)


_NO_SPAN = nullcontext()
_UNDER_WAY: ContextVar[Facts] = ContextVar("facts")


def begin(facts: Facts) -> None:
    """From now on, in this task and in those that it starts, these are the facts."""
    _UNDER_WAY.set(facts)


def facts() -> Facts:
    """Those of the request under way; some that nobody reads where there is none."""
    return _UNDER_WAY.get(None) or Facts()
