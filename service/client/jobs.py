"""What a client does, without doing it: generators that say what to send and how long to wait.

They are told what came, and return the answer; both clients run the same ones. Of many sentences or
documents they make requests that are not too large, and of those answers in order. A request that is
refused for now (429, 503) is sent again, never sooner than Retry-After says, while its deadline allows.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

import httpx

from service.client.answers import Redacted, Sentence, Streamed, redacted, sentences_of, streamed
from service.client.errors import TimedOut, TooLarge, Unavailable, checked, object_of, problem_of

Unit = Literal["codepoint", "utf16", "utf8"]
Mode = Literal["mask", "label", "hash", "pseudonym"]
GivenSentence = str | Sequence[str]  # a string, or tokens
GivenDocument = str | Mapping[str, Any]  # a text, or the members of a stream's line

# Sent together at most, whatever the service would take: an answer is some 20 times as long.
SENTENCES_AT_ONCE = 1_000
# Less than the service reads ahead of who does not read (service/window.py), since httpx sends the whole
# of a body before it reads any of the answer.
LINES_AT_ONCE = 256
LINE_BYTES_AT_ONCE = 128 * 1024
MAX_ATTEMPTS = 6
FIRST_WAIT_S = 0.5  # doubled from one attempt to the next, where Retry-After says no more
JITTER = 0.25  # of a wait, at most, on top: so that who was refused together does not come back together
# What X-Request-Timeout has room for, and the longest wait that sockets know, about: beyond, httpx waits
# until there is an answer.
_LEAST_S, _MOST_S = 0.001, 999_999_999.0
_LONGEST_WAIT_S = 1_000_000.0
# What a smaller part of the same job may not be over.
_OF_THE_REQUEST = frozenset({"max_sentences", "max_body_bytes", "max_request_tokens"})

# With these a stream ends before its input does, and says so of the first line without an answer.
_LAST_WORDS = frozenset({"draining", "body-too-slow"})

Value = TypeVar("Value")
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Send:
    request: httpx.Request
    timeout_s: float | None  # None is for ever


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


Steps = Generator[Send | Wait, httpx.Response | None, Value]


class Jobs:
    """Makes requests, and reads answers. Does no input or output."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        self._url = httpx.URL(url.rstrip("/") + "/")
        self._headers = {} if api_key is None else {"x-api-key": api_key}
        self._timeout_s = timeout_s

    def asked(
        self, method: str, path: str, content: bytes | None, media_type: str
    ) -> Steps[httpx.Response]:
        """The answer to one request, which is repeated where the service says that it may be."""
        deadline = time.monotonic() + self._timeout_s
        for attempt in range(1, MAX_ATTEMPTS + 1):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimedOut(f"no answer within {self._timeout_s:g} seconds")
            said_s = min(max(left_s, _LEAST_S), _MOST_S)
            headers = {**self._headers, "x-request-timeout": f"{said_s:.3f}"}
            if content is not None:
                headers["content-type"] = media_type
            request = httpx.Request(method, self._url.join(path), headers=headers, content=content)
            answer = yield Send(request, left_s if left_s <= _LONGEST_WAIT_S else None)
            assert answer is not None
            if answer.status_code not in (429, 503):
                return checked(answer)
            refusal = Unavailable(answer.status_code, problem_of(answer))
            wait_s = _wait_s(answer.headers.get("retry-after"), attempt)
            if attempt == MAX_ATTEMPTS or time.monotonic() + wait_s >= deadline:
                raise refusal
            yield Wait(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def posted(self, path: str, body: Object) -> Steps[Object]:
        answer = yield from self.asked("POST", path, dumped(body), "application/json")
        return object_of(answer)

    def tag(self, sentences: Sequence[GivenSentence], options: Object) -> Steps[list[Sentence]]:
        """In parts where that is too much for one request."""
        found: list[Sentence] = []
        at = 0
        n = SENTENCES_AT_ONCE
        while at < len(sentences):
            part = [each if isinstance(each, str) else list(each) for each in sentences[at : at + n]]
            try:
                answer = yield from self.posted("v1/tag", {"sentences": part, **options})
            except TooLarge as error:
                if error.limit not in _OF_THE_REQUEST or len(part) == 1:
                    raise
                # As many as the limit has room for, if they are alike; fewer in any case.
                n = max(1, min(len(part) // 2, len(part) * error.maximum // max(1, error.actual)))
                continue
            found += sentences_of(answer)
            at += len(part)
        return found

    def tag_text(self, text: str, options: Object) -> Steps[list[Sentence]]:
        return list(sentences_of((yield from self.posted("v1/tag", {"text": text, **options}))))

    def redact(self, texts: Sequence[str], mode: Mode, options: Object) -> Steps[list[Redacted]]:
        # Never in parts: a person is the same throughout one request only.
        answer = yield from self.posted("v1/redact", {"texts": list(texts), "mode": mode, **options})
        return [redacted(each) for each in answer["texts"]]

    def models(self) -> Steps[list[Object]]:
        found: list[Object] = object_of((yield from self.asked("GET", "v1/models", None, "")))["models"]
        return found

    def stream(self, part: Part) -> Steps[list[Streamed]]:
        """The answers to some lines of a stream. Where it ends before they do, it is gone on with."""
        found: list[Streamed] = []
        n_fruitless = 0
        while len(found) < len(part.lines):
            content = b"".join(part.lines[len(found) :])
            answer = yield from self.asked("POST", "v1/tag/stream", content, "application/x-ndjson")
            n_before = len(found)
            last_word: Object = {}
            for said in map(json.loads, answer.content.splitlines()):
                if said.get("code") in _LAST_WORDS:
                    last_word = said
                    break
                found.append(streamed(said, part.first + len(found)))
            n_fruitless = n_fruitless + 1 if len(found) == n_before else 0
            if len(found) < len(part.lines):
                if n_fruitless == MAX_ATTEMPTS:
                    raise Unavailable(503, last_word)
                yield Wait(_wait_s(None, n_fruitless + 1))
        return found


@dataclass(frozen=True, slots=True)
class Part:
    """Lines of a stream that are sent together."""

    first: int  # document of the stream
    lines: list[bytes]


class Gathered:
    """Documents in, one by one; parts of a stream out."""

    def __init__(self, options: Object) -> None:
        self._options = options
        self._first = 0
        self._lines: list[bytes] = []
        self._n_bytes = 0

    def add(self, document: GivenDocument) -> Part | None:
        """The part that was full before this document, if there was one."""
        members = {"text": document} if isinstance(document, str) else dict(document)
        line = dumped({**self._options, **members}) + b"\n"
        is_full = len(self._lines) == LINES_AT_ONCE or self._n_bytes + len(line) > LINE_BYTES_AT_ONCE
        full = self.rest() if is_full and self._lines else None
        self._lines.append(line)
        self._n_bytes += len(line)
        return full

    def rest(self) -> Part:
        part = Part(self._first, self._lines)
        self._first += len(self._lines)
        self._lines = []
        self._n_bytes = 0
        return part


def dumped(body: Object) -> bytes:
    """Escaped where it is not ASCII: half a surrogate pair, too, reaches the service, which says where."""
    return json.dumps(body, separators=(",", ":")).encode()


def options_of(**given: object) -> Object:
    """Those that are given: the service has its own defaults."""
    return {name: value for name, value in given.items() if value is not None}


def _wait_s(retry_after: str | None, attempt: int) -> float:
    """How long to wait after an attempt, from 1: never less than Retry-After (RFC 9110, 10.2.3) says."""
    said_s = 0.0
    if retry_after is not None:
        try:
            said_s = float(retry_after)
        except ValueError:
            try:
                when = parsedate_to_datetime(retry_after)
                said_s = (when - datetime.now(when.tzinfo or UTC)).total_seconds()
            except (ValueError, TypeError):
                said_s = 0.0
    least_s = max(said_s, FIRST_WAIT_S * 2.0 ** (attempt - 1))
    return least_s * (1 + JITTER * random.random())
