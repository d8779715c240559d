"""POST /v1/tag/stream: lines of JSON in, as many documents; their answers out, a line each, in order.

    Incoming → Lines → _let_in (one line → a place in the queue) → _write (its answer → the client)

Two tasks, with a window between them: one reads lines and queues them, and waits where the window
or the queue is full; the other writes the answers in the order of the lines. So nothing is held but
the window, however long the stream is, and a client that does not read is not read from.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from model.head import Tagged
from service.admission import Hold
from service.body import JSON, check_content_type
from service.edge import Endpoint, bug
from service.lines import Incoming, Line, Lines
from service.models import ServedModel
from service.observing.facts import facts
from service.openapi import REQUEST_ID_HEADER, TIMEOUT_HEADER, answers, lines_of
from service.problems import ClientGone, Problem, invalid, too_large
from service.schemas import kind_of, parsed, tag_request
from service.state import Service
from service.steps import INLINE_CHARS, Cut, for_each, items_of, off_loop, said_as_problems
from service.tag import ANSWER_EXAMPLE, answer_bytes, cuts_of, timeout_s
from service.window import MAX_BYTES

PATH = "/v1/tag/stream"
NDJSON = b"application/x-ndjson"
# One document in plain JSON is a stream of one line, if no line feed is in it.
ACCEPTED = (NDJSON, b"application/jsonl", JSON)

EXAMPLES: dict[str, dict[str, Any]] = {
    "lines": {
        "summary": "Two documents, the first with a name of its own",
        "value": '{"text": "Ada Lovelace wrote. Marie Curie did too.", "id": "note-1"}\n'
        '{"sentences": [["Harry", "Potter", "left"]], "threshold": 0.5}\n',
    },
    "mistake": {
        "summary": "A line that is wrong fails alone",
        "value": '{"txt": "Ada Lovelace wrote.", "id": 1}\n{"text": "Marie Curie did too.", "id": 2}\n',
    },
}
_WRONG = invalid("/txt", "an unknown field", "one of model, offset_unit, sentences, text, threshold")

_SEND_BYTES = 64 * 1024  # answers that are ready are sent together, up to about this
_YIELD_LINES = 256  # even lines that take no time let others have a turn
# After the last word of a stream that ends before its input does: so long the input is read on and
# dropped, since closing a connection with input unread can cost the client answers on their way.
_LINGER_S = 1.0


@dataclass(frozen=True, slots=True)
class Queued:
    """A line whose answer is being computed."""

    cuts: list[Cut]
    unit: str
    model: ServedModel
    future: asyncio.Future[list[Tagged]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line on its way from being read to being answered."""

    number: int
    id: str | int | float | None
    n_bytes: int  # that the window counts
    n_held_bytes: int  # that admission counts
    answer: Queued | Problem

    @property
    def is_ready(self) -> bool:
        return isinstance(self.answer, Problem) or self.answer.future.done()


def with_line(number: int, id_: object, content: bytes) -> bytes:
    """The JSON of an answer or a problem as a line of the stream, which says the line it is for."""
    echoed = b"" if id_ is None else b'"id":' + orjson.dumps(id_) + b","
    return b"".join((b'{"line":%d,' % number, echoed, content[1:], b"\n"))


def _problem_line(number: int, id_: object, problem: Problem) -> bytes:
    fields = problem.as_json()
    fields.pop("line", None)  # of broken JSON: the same number
    return with_line(number, id_, orjson.dumps(fields))


ANSWER_LINES = (with_line(1, "note-1", orjson.dumps(ANSWER_EXAMPLE)) + _problem_line(2, 7, _WRONG)).decode()


def _id_of(value: Any) -> str | int | float | None:
    """Takes a line's own name out of it. Raises Problem (invalid-request)."""
    found = value.pop("id", None) if type(value) is dict else None
    if found is not None and type(found) not in (str, int, float):
        raise invalid("/id", kind_of(found), "a string or a number")
    return found


class Stream:
    """One request while it is being answered."""

    def __init__(
        self,
        service: Service,
        hold: Hold,
        receive: Receive,
        send: Send,
        *,
        timeout_s: float,
        is_closing: Callable[[], bool],
    ) -> None:
        self._service = service
        self._hold = hold
        self._timeout_s = timeout_s
        self._is_closing = is_closing  # the connection: a client that hangs up unread from shows so
        self._send = send
        self._incoming = Incoming(receive)
        self._lines = Lines(service.settings.max_body_bytes)
        self._entries: deque[Entry] = deque()
        self._news = asyncio.Event()  # an entry, or the end of them
        self._last_word: Problem | None = None  # why it ends before its input does
        self._n_read = 0  # lines, those skipped included
        self._n_held_bytes = 0  # that admission counts for the line that is not complete
        self._active_at = 0.0  # when the client last sent something, or was last answered

    async def run(self) -> None:
        """Answers until the input ends; all but the end of the answer. Raises ClientGone."""
        # What all lines together may hold; a longer line counts by itself.
        self._hold.add_bytes(min(MAX_BYTES, self._service.settings.max_body_bytes))
        with self._service.streams.open(self._drain) as window:
            self._window = window
            try:
                async with asyncio.TaskGroup() as tasks:
                    pump = tasks.create_task(self._incoming.pump())
                    self._reader = tasks.create_task(self._read())
                    self._reader.add_done_callback(lambda _: self._news.set())
                    await asyncio.sleep(0)  # the pump comes first: "100 Continue" goes before the head
                    await self._begin()
                    await self._write()
                    if self._last_word is not None:
                        await self._say_last_word(self._last_word)
                    pump.cancel()
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None  # the first to fail; the others were cancelled
            finally:
                for entry in self._entries:
                    if isinstance(entry.answer, Queued):
                        entry.answer.future.cancel()

    def _drain(self) -> None:
        """Reads no more lines. Those that are queued are answered."""
        if not self._reader.done():
            self._last_word = Problem("draining", "this replica is shutting down: go on elsewhere")
            self._reader.cancel()

    # Reading

    async def _read(self) -> None:
        """Lets in one line after the other; ends with the input, or where the client says nothing."""
        try:
            while (chunk := await self._next_chunk()) is not None:
                for line in self._lines.feed(chunk):
                    await self._let_in(line)
                await self._count_held()
            for line in self._lines.end():
                await self._let_in(line)
        except Problem as problem:
            self._last_word = problem

    async def _next_chunk(self) -> bytes | None:
        """None at the end. Raises Problem (body-too-slow) where the client alone is waited for too long."""
        incoming = self._incoming
        timeout_s = self._service.settings.receive_timeout_s
        now = asyncio.get_running_loop().time
        while (chunk := incoming.take()) is None:
            if incoming.is_complete:
                return None
            # While answers are under way it is not the client's turn.
            silent_since = now() if self._window.n_lines else self._active_at
            try:
                async with asyncio.timeout_at(silent_since + timeout_s):
                    await incoming.more()
            except TimeoutError:
                if not self._window.n_lines and now() >= self._active_at + timeout_s:
                    detail = f"nothing came for {timeout_s:g} seconds; an empty line keeps a stream open"
                    raise Problem("body-too-slow", detail, timeout_s=timeout_s) from None
        self._active_at = now()
        return chunk

    async def _count_held(self) -> None:
        """Counts what a long line that is not complete holds; gives the line up where that is too much.

        To wait here would not help: streams could wait for each other, each with half a line.
        """
        excess = self._lines.n_held_bytes - MAX_BYTES - self._n_held_bytes
        if excess > 0:
            try:
                self._hold.add_bytes(excess)
            except Problem as problem:
                await self._let_in(self._lines.skip(), problem)
            else:
                self._n_held_bytes += excess

    async def _let_in(self, line: Line, trouble: Problem | None = None) -> None:
        """Queues a line, when there is room for it, or enters what is wrong with it."""
        if line.number % _YIELD_LINES == 0:
            await asyncio.sleep(0)
        n_held_bytes, self._n_held_bytes = self._n_held_bytes, 0
        if line.content is not None and (not line.content or line.content.isspace()):
            self._hold.remove_bytes(n_held_bytes)
            self._n_read = line.number
            return
        n_bytes = len(line.content or b"")
        await self._window.room_to_read(n_bytes)
        id_ = None
        answer: Queued | Problem
        try:
            if line.content is None:
                raise trouble or self._too_long(line)
            value = parsed(line.content, first_line=line.number)
            id_ = _id_of(value)
            answer = await self._queued(value, is_small=n_bytes <= INLINE_CHARS)
        except Problem as problem:
            answer = problem
        except Exception as error:  # fails this line, not the stream
            answer = bug(error)
        self._window.add_read(n_bytes)
        self._entries.append(Entry(line.number, id_, n_bytes, n_held_bytes, answer))
        self._news.set()
        self._n_read = line.number

    def _too_long(self, line: Line) -> Problem:
        limit = self._service.settings.max_body_bytes
        return too_large("max_body_bytes", limit, line.n_bytes, "bytes of the line, or more")

    async def _queued(self, value: Any, *, is_small: bool) -> Queued:
        """Waits for room in the queue, which never fails a line. Its deadline begins then."""
        service, window = self._service, self._window
        asked = tag_request(value, max_sentences=service.settings.max_sentences)
        model = service.model(asked.model)
        cuts = await off_loop(service, is_small, lambda: cuts_of(asked, model, service.settings))
        items = items_of(cuts, model, asked.threshold)
        n_tokens = sum(len(item.tokens) for item in items)
        batcher = model.batcher
        await window.room_to_queue(
            n_tokens,
            max_batch_tokens=batcher.max_batch_tokens,
            max_queue_requests=service.settings.max_queue_requests,
        )
        with said_as_problems:
            await batcher.room(n_tokens)
            future = batcher.submit(items, time.monotonic() + self._timeout_s, facts())
        window.add_queued(n_tokens)
        future.add_done_callback(lambda _: window.remove_queued(n_tokens))
        return Queued(cuts, asked.offset_unit, model, future)

    # Writing

    async def _begin(self) -> None:
        self._active_at = asyncio.get_running_loop().time()
        # nginx would gather answers until it has a buffer full of them.
        headers = [(b"content-type", NDJSON), (b"x-accel-buffering", b"no")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _write(self) -> None:
        """Writes the answers in the order of the lines, those that are ready together."""
        written: list[Entry] = []
        parts: list[bytes] = []
        n_bytes = 0
        while True:
            entry = self._entries[0] if self._entries else None
            if parts and (entry is None or not entry.is_ready or n_bytes > _SEND_BYTES):
                await self._send_lines(parts)
                self._window.remove_written(len(written), sum(each.n_bytes for each in written))
                self._hold.remove_bytes(sum(each.n_held_bytes for each in written))
                written, parts, n_bytes = [], [], 0
            elif entry is not None:
                part = await self._answered(entry)
                written.append(self._entries.popleft())
                parts.append(part)
                n_bytes += len(part)
            elif self._reader.done():
                return
            else:
                self._news.clear()
                await self._news.wait()

    async def _answered(self, entry: Entry) -> bytes:
        """The line that answers an entry, when it is there."""
        queued = entry.answer
        if isinstance(queued, Problem):
            return self._refused(entry, queued)
        try:
            with said_as_problems:
                found = for_each(queued.cuts, iter(await queued.future), queued.model)

            def line() -> bytes:
                content = answer_bytes(queued.cuts, found, queued.unit, queued.model)
                return with_line(entry.number, entry.id, content)

            return await off_loop(self._service, entry.n_bytes <= INLINE_CHARS, line)
        except Problem as problem:
            return self._refused(entry, problem)
        except Exception as error:  # fails this line, not the stream
            return self._refused(entry, bug(error))

    def _refused(self, entry: Entry, problem: Problem) -> bytes:
        self._service.metrics.rejected(problem)
        return _problem_line(entry.number, entry.id, problem)

    async def _send_lines(self, parts: list[bytes]) -> None:
        """Waits until the client takes them. One that takes nothing for too long counts as gone."""
        try:
            async with asyncio.timeout(self._service.settings.max_request_timeout_s):
                await self._send({"type": "http.response.body", "body": b"".join(parts), "more_body": True})
        except TimeoutError:
            raise ClientGone from None
        if self._is_closing():
            raise ClientGone
        self._active_at = asyncio.get_running_loop().time()

    async def _say_last_word(self, problem: Problem) -> None:
        """Says why the stream ends here, and with which line it would have gone on."""
        await self._send_lines([_problem_line(self._n_read + 1, None, problem)])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                await self._incoming.drop_rest()


class StreamResponse(Response):
    """200, and then the lines."""

    def __init__(self, service: Service, timeout_s: float) -> None:
        self._service = service
        self._timeout_s = timeout_s
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._service.admission.hold() as hold:
            is_closing = scope.get("state", {}).get("is_closing", lambda: False)
            await Stream(
                self._service, hold, receive, send, timeout_s=self._timeout_s, is_closing=is_closing
            ).run()
        # Now that it counts no more: who has read this may come again at once.
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def endpoint(service: Service) -> Endpoint:
    async def tag_stream(request: Request) -> Response:
        """Answers each line of JSON as `/v1/tag` would, with a line: in order, as soon as it is ready.

        The fields of a line are those of `/v1/tag`, and an `id`, which is echoed. What is wrong with
        a line is said in its place, with a `code`, and the rest goes on. Empty lines are skipped, but
        counted in `line`. Lines may be sent one by one, each after the answer to the one before, or
        as fast as they are taken: the service reads no further than a few hundred lines ahead of
        the client, and where the queue is full it waits instead of refusing lines.

        A line may be as long as a body of `/v1/tag`; a longer one is dropped, and its error given.
        `X-Request-Timeout` counts for each line from when it is in the queue. A stream that ends
        before its input does says why in its last line, whose `line` is the first without an
        answer: `draining` when the service shuts down, `body-too-slow` when nothing comes for
        as long as a body may take. An empty line is enough to keep a stream open.
        """
        headers = dict(request.scope["headers"])
        service.check_accepting()
        check_content_type(headers, ACCEPTED)
        return StreamResponse(service, timeout_s(headers, service.settings))

    return tag_stream


def router(service: Service) -> APIRouter:
    router = APIRouter(tags=["tagging"])
    problems = answers(
        "TagLineResponse", None,
        "invalid-timeout", "unsupported-content-type", "unsupported-content-encoding", "overloaded",
        "not-ready", "draining",
    )  # fmt: skip
    found = {
        "description": "A line for each line, in order, as soon as it is ready",
        "content": {
            NDJSON.decode(): {
                "schema": lines_of(["TagLineResponse", "TagLineProblem"]),
                "example": ANSWER_LINES,
            }
        },
    }
    router.add_api_route(
        PATH,
        endpoint(service),
        methods=["POST"],
        operation_id="tag_stream",
        summary="Tag a stream of documents, a line each",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    NDJSON.decode(): {
                        "schema": lines_of(["TagLineSentences", "TagLineDocument"]),
                        # Not "examples": tools that would send them know no such media type.
                        "x-examples": EXAMPLES,
                    },
                    JSON.decode(): {
                        # Nothing more: what is wrong with a line never refuses the stream.
                        "schema": {"description": "A stream of one line, without line feeds."},
                        "example": {"text": "Ada Lovelace wrote.", "id": "note-1"},
                    },
                },
            },
            "parameters": [TIMEOUT_HEADER, REQUEST_ID_HEADER],
        },
        response_class=Response,  # not JSON, as FastAPI takes it to be
        responses={**problems, 200: found},
    )
    return router
