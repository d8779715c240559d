"""A client of the service: texts in, typed answers out; Nametag, and AsyncNametag for asyncio.

    with Nametag("http://127.0.0.1:8000") as nametag:
        for sentence in nametag.tag_text("Ada Lovelace wrote. Marie Curie did too."):
            print([person.text for person in sentence.persons])

It waits as Retry-After says where the service is full, keeps to a deadline that the service is told
of too, and sends in parts what is too much for one request. See service/client/errors.py for what
may be raised. It needs httpx (``pip install "nametag[client]"``) and nothing of the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from service.client.answers import Person, Redacted, Replacement, Sentence, Streamed, Token
from service.client.errors import (
    ConnectionFailed,
    KeyRefused,
    NametagError,
    Refused,
    Said,
    ServiceFailed,
    TimedOut,
    TooLarge,
    Unavailable,
)
from service.client.jobs import (
    Gathered,
    GivenDocument,
    GivenSentence,
    Jobs,
    Mode,
    Part,
    Send,
    Steps,
    Unit,
    Value,
    Wait,
    options_of,
)

__all__ = [
    "AsyncNametag", "ConnectionFailed", "KeyRefused", "Nametag", "NametagError", "Person", "Redacted",
    "Refused", "Replacement", "Said", "Sentence", "ServiceFailed", "Streamed", "TimedOut", "Token",
    "TooLarge", "Unavailable",
]  # fmt: skip

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 60.0


class Nametag:
    """Asks a service, and waits for it. One may be used by several threads.

    ``timeout_s``: of each request, its repetitions included. ``transport``: httpx's, to go another way.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._jobs = Jobs(url, api_key, timeout_s)
        self._http = httpx.Client(transport=transport)
        self._sleep = time.sleep

    def tag(
        self,
        sentences: Sequence[GivenSentence],
        *,
        threshold: float | None = None,
        offset_unit: Unit | None = None,
        model: str | None = None,
    ) -> list[Sentence]:
        """One answer for each sentence, a string or tokens, in order; however many there are."""
        options = options_of(threshold=threshold, offset_unit=offset_unit, model=model)
        return self._run(self._jobs.tag(sentences, options))

    def tag_text(
        self,
        text: str,
        *,
        threshold: float | None = None,
        offset_unit: Unit | None = None,
        model: str | None = None,
    ) -> list[Sentence]:
        """The sentences of a document; their offsets are in the document."""
        options = options_of(threshold=threshold, offset_unit=offset_unit, model=model)
        return self._run(self._jobs.tag_text(text, options))

    def stream(
        self,
        documents: Iterable[GivenDocument],
        *,
        threshold: float | None = None,
        offset_unit: Unit | None = None,
        model: str | None = None,
    ) -> Iterator[Streamed]:
        """The answer to each document, in order; what is wrong with one is in its ``error``.

        A document is a text, or what a line of /v1/tag/stream may be: {"text": …, "id": …}. Some
        hundred are taken and sent at once, never all of them.
        """
        gathered = Gathered(options_of(threshold=threshold, offset_unit=offset_unit, model=model))
        for document in documents:
            full = gathered.add(document)
            if full is not None:
                yield from self._answers(full)
        yield from self._answers(gathered.rest())

    def redact(
        self,
        texts: Sequence[str],
        mode: Mode = "label",
        *,
        key: str | None = None,
        threshold: float | None = None,
        offset_unit: Unit | None = None,
        model: str | None = None,
    ) -> list[Redacted]:
        """The texts with something else in place of the persons, who are the same in all of them."""
        options = options_of(key=key, threshold=threshold, offset_unit=offset_unit, model=model)
        return self._run(self._jobs.redact(texts, mode, options))

    def models(self) -> list[dict[str, Any]]:
        """What is loaded, as /v1/models says; the default one comes first."""
        return self._run(self._jobs.models())

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answers(self, part: Part) -> list[Streamed]:
        return self._run(self._jobs.stream(part))

    def _run(self, steps: Steps[Value]) -> Value:
        answer: httpx.Response | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                value: Value = end.value
                return value
            match step:
                case Wait(seconds):
                    self._sleep(seconds)
                    answer = None
                case Send(request, timeout_s):
                    _set_timeout(request, timeout_s)
                    try:
                        answer = self._http.send(request)
                    except httpx.TransportError as error:
                        raise _failed(error) from error


class AsyncNametag:
    """Nametag for asyncio: the same, awaited. Belongs to one event loop."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._jobs = Jobs(url, api_key, timeout_s)
        self._http = httpx.AsyncClient(transport=transport)
        self._sleep = asyncio.sleep

    async def tag(
        self,
        sentences: Sequence[GivenSentence],
        *,
        threshold: float | None = None,
        offset_unit: Unit | None = None,
        model: str | None = None,
    ) -> list[Sentence]:
        """As Nametag.tag."""
        options = options_of(threshold=threshold, offset_unit=offset_unit, model=model)
        return await self._run(self._jobs.tag(sentences, options))

    async def tag_text(
        self,
        text: str,
        *,
        threshold: float | None = None,
        offset_unit: Unit | None = None,
        model: str | None = None,
    ) -> list[Sentence]:
        """As Nametag.tag_text."""
        options = options_of(threshold=threshold, offset_unit=offset_unit, model=model)
        return await self._run(self._jobs.tag_text(text, options))

    async def stream(
        self,
        documents: Iterable[GivenDocument] | AsyncIterable[GivenDocument],
        *,
        threshold: float | None = None,
        offset_unit: Unit | None = None,
        model: str | None = None,
    ) -> AsyncIterator[Streamed]:
        """As Nametag.stream; the documents may come asynchronously, too."""
        gathered = Gathered(options_of(threshold=threshold, offset_unit=offset_unit, model=model))
        async for document in _asynchronous(documents):
            full = gathered.add(document)
            if full is not None:
                for answer in await self._answers(full):
                    yield answer
        for answer in await self._answers(gathered.rest()):
            yield answer

    async def redact(
        self,
        texts: Sequence[str],
        mode: Mode = "label",
        *,
        key: str | None = None,
        threshold: float | None = None,
        offset_unit: Unit | None = None,
        model: str | None = None,
    ) -> list[Redacted]:
        """As Nametag.redact."""
        options = options_of(key=key, threshold=threshold, offset_unit=offset_unit, model=model)
        return await self._run(self._jobs.redact(texts, mode, options))

    async def models(self) -> list[dict[str, Any]]:
        """As Nametag.models."""
        return await self._run(self._jobs.models())

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _answers(self, part: Part) -> list[Streamed]:
        return await self._run(self._jobs.stream(part))

    async def _run(self, steps: Steps[Value]) -> Value:
        answer: httpx.Response | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                value: Value = end.value
                return value
            match step:
                case Wait(seconds):
                    await self._sleep(seconds)
                    answer = None
                case Send(request, timeout_s):
                    _set_timeout(request, timeout_s)
                    try:
                        answer = await self._http.send(request)
                    except httpx.TransportError as error:
                        raise _failed(error) from error


def _set_timeout(request: httpx.Request, seconds: float | None) -> None:
    request.extensions = {**request.extensions, "timeout": httpx.Timeout(seconds).as_dict()}


def _failed(error: httpx.TransportError) -> NametagError:
    kind = TimedOut if isinstance(error, httpx.TimeoutException) else ConnectionFailed
    return kind(f"{type(error).__name__}: {error}")


async def _asynchronous(
    documents: Iterable[GivenDocument] | AsyncIterable[GivenDocument],
) -> AsyncIterator[GivenDocument]:
    if isinstance(documents, AsyncIterable):
        async for document in documents:
            yield document
    else:
        for document in documents:
            yield document
