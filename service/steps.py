"""The steps from a request's sentences to tagged ones, the same for every surface of the service.

    cut (text → tokens, limits) → tagged (batches → labels, scores, spans)

Each surface reads its own wire before these steps, and writes its own after them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.types import Receive

from model.head import Tagged
from model.labels import PERSON
from model.tokeniser import Tokens, given_tokens
from service.admission import overloaded
from service.batching import ClosedError, DeadlineError, OverloadedError
from service.models import Sentence, ServedModel
from service.observing.facts import facts
from service.problems import ClientGone, Problem, too_large
from service.settings import Settings
from service.state import Service

# Below this many characters, work on text takes about a millisecond and stays on the event loop:
# another thread would cost more than it frees.
INLINE_CHARS = 4_000
# A client that is answered sooner is not watched: watching costs a task.
WATCH_AFTER_S = 0.05

# Sentences that the event loop looks at in one turn: a millisecond's worth.
_CUTS_AT_ONCE = 1_000

_EMPTY = Tagged([], [], [])

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Cut:
    """One sentence in tokens. Offsets are code points of ``text``, half open."""

    text: str  # what the offsets count in: the sentence, or the document that it is a part of
    shown: str  # the sentence itself
    tokens: Tokens
    is_part: bool = False  # of a document of several


def cut_sentences(
    sentences: Sequence[str | list[str]], model: ServedModel, settings: Settings
) -> list[Cut]:
    """Each a string to tokenise, or tokens. Raises Problem (too-large)."""
    cuts = []
    tokenise = model.tagger.tokenise
    n_tokens = 0
    for i, sentence in enumerate(sentences):
        if isinstance(sentence, str):
            check_chars(sentence, f"/sentences/{i}", settings)
            cut = Cut(sentence, sentence, tokenise(sentence))
        else:
            text = " ".join(sentence)
            cut = Cut(text, text, given_tokens(sentence))
        cuts.append(cut)
        _check_tokens(cut.tokens, f"/sentences/{i}", settings)
        n_tokens += len(cut.tokens)
    check_total(n_tokens, settings)
    return cuts


def cut_document(
    text: str, model: ServedModel, settings: Settings, pointer: str = "/text", n_tokens: int = 0
) -> list[Cut]:
    """The sentences found in one text. Raises Problem (too-large).

    ``n_tokens``: of the request's other texts.
    """
    check_chars(text, pointer, settings)
    tokens = model.tagger.tokenise(text)
    return cut_ranges(text, tokens, model.tagger.sentences(text, tokens), settings, pointer, n_tokens)


def cut_ranges(
    text: str,
    tokens: Tokens,
    ranges: Sequence[tuple[int, int]],
    settings: Settings,
    pointer: str = "/text",
    n_tokens: int = 0,
) -> list[Cut]:
    """A text's sentences, given as token ranges, none empty. As ``cut_document``."""
    check_total(n_tokens + len(tokens), settings)
    cuts = _parts(text, tokens, ranges)
    for cut in cuts:
        _check_tokens(cut.tokens, pointer, settings)
    return cuts


def cut_unchecked(text: str, model: ServedModel) -> list[Cut]:
    """The sentences found in a text that is made of one whose size was checked."""
    tokens = model.tagger.tokenise(text)
    return _parts(text, tokens, model.tagger.sentences(text, tokens))


def _parts(text: str, tokens: Tokens, ranges: Sequence[tuple[int, int]]) -> list[Cut]:
    cuts = []
    for first, last in ranges:
        part = tokens.slice(first, last)
        cuts.append(Cut(text, text[part.starts[0] : part.ends[-1]], part, len(ranges) > 1))
    return cuts


def check_chars(text: str, pointer: str, settings: Settings) -> None:
    """Raises Problem (too-large) for a text longer than any may be."""
    if len(text) > settings.max_document_chars:
        raise too_large(
            "max_document_chars", settings.max_document_chars, len(text), "characters of one text",
            pointer="#" + pointer,
        )  # fmt: skip


def _check_tokens(tokens: Tokens, pointer: str, settings: Settings) -> None:
    if len(tokens) > settings.max_sentence_tokens:
        raise too_large(
            "max_sentence_tokens", settings.max_sentence_tokens, len(tokens), "tokens of one sentence",
            pointer="#" + pointer,
        )  # fmt: skip
    longest = max(map(len, tokens.texts), default=0)
    if longest > settings.max_token_chars:
        raise too_large(
            "max_token_chars", settings.max_token_chars, longest, "characters of one token",
            pointer="#" + pointer,
        )  # fmt: skip


def check_total(n_tokens: int, settings: Settings) -> None:
    """Raises Problem (too-large) where a request has more tokens than it may."""
    if n_tokens > settings.max_request_tokens:
        raise too_large(
            "max_request_tokens", settings.max_request_tokens, n_tokens, "tokens of the request"
        )


async def off_loop(
    service: Service,
    is_small: bool,
    work: Callable[[], Value],
    deadline: float | None = None,
    receive: Receive | None = None,
) -> Value:
    """The result of pure work on text: here if it is small, else on the text thread.

    That is waited for until ``deadline``, of time.monotonic, and while ``receive`` does not say that the
    client hung up: else raises Problem, or ClientGone. Work that has not begun by then never does.
    """
    if is_small:
        return work()
    left_s = None if deadline is None else deadline - time.monotonic()
    if left_s is not None and left_s <= 0:
        raise _deadline_passed()
    to_do = [work]
    try:
        async with asyncio.timeout(left_s):
            future = asyncio.get_running_loop().run_in_executor(service.text_thread, lambda: to_do.pop()())
            return await (future if receive is None else _unless_gone(future, receive))
    except TimeoutError:
        raise _deadline_passed() from None
    finally:
        to_do.clear()  # what was given up holds no text until its turn comes


def _deadline_passed() -> Problem:
    return Problem("deadline-passed", "the deadline passed before the answer was computed")


def let_go(*lists: list[Any]) -> None:
    """Empties them, a little at a time: 10,000 sentences are a million objects, and freed at once, by
    whoever drops the last reference, they keep the event loop waiting for 30 ms."""
    for each in lists:
        while each:
            del each[-_CUTS_AT_ONCE // 10 :]


def check_room(model: ServedModel) -> None:
    """Raises Problem where the queue is full already: before any work."""
    with said_as_problems:
        model.batcher.check_room()


class _SaidAsProblems:
    """Raises what the batcher raises as Problem. A generator's context takes 1 us, thrice a request."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        if isinstance(error, OverloadedError):
            raise overloaded(error.what, f"max_queue_{error.what}", error.most, error.waiting) from None
        if isinstance(error, DeadlineError):
            raise _deadline_passed() from None
        if isinstance(error, ClosedError):
            raise Problem("draining", "this replica is shutting down: ask another, or again") from None


said_as_problems = _SaidAsProblems()


async def tagged(
    cuts: Sequence[Cut],
    model: ServedModel,
    threshold: float | None,
    deadline: float,
    receive: Receive,
    *,
    is_alone: bool = False,
) -> list[Tagged]:
    """The answer for each cut, in order; ``threshold`` None is the model's own.

    ``deadline``: of time.monotonic. ``is_alone``: no other request is under way. Raises Problem, or
    ClientGone when ``receive`` says so.
    """
    # The event loop is free between parts: 10,000 sentences take it 10 ms at once.
    parts = [cuts[at : at + _CUTS_AT_ONCE] for at in range(0, len(cuts) or 1, _CUTS_AT_ONCE)]
    items: list[Sentence] = []
    for number, part in enumerate(parts):
        if number:
            await asyncio.sleep(0)
        items += items_of(part, model, threshold)
    answers: list[Tagged] = []
    if items:
        with said_as_problems:
            future = model.batcher.submit(items, deadline, facts(), is_alone=is_alone)
            if future.done():
                answers = future.result()
            else:
                answers = await _unless_gone(future, receive)
    left = iter(answers)
    found: list[Tagged] = []
    for number, part in enumerate(parts):
        if number:
            await asyncio.sleep(0)
        found += for_each(part, left, model)
    return found


def items_of(cuts: Sequence[Cut], model: ServedModel, threshold: float | None) -> list[Sentence]:
    """What the batcher gets of the cuts; ``threshold`` None is the model's own."""
    least = model.tagger.config.threshold if threshold is None else threshold
    # An empty sentence has its answer already, and 10,000 of them should cost nothing.
    return [
        Sentence(cut.tokens.texts, least, cut.text if cut.is_part else None)
        for cut in cuts
        if cut.tokens.texts
    ]


def for_each(cuts: Sequence[Cut], answers: Iterator[Tagged], model: ServedModel) -> list[Tagged]:
    """The answer for each cut, from those for ``items_of(cuts)``, which are counted: sentences of no tokens
    are not, since nothing was done for them."""
    found = [next(answers) if cut.tokens.texts else _EMPTY for cut in cuts]
    known = facts()
    n_sentences = sum([bool(cut.tokens.texts) for cut in cuts])
    n_tokens = sum([len(cut.tokens) for cut in cuts])
    n_persons = sum([scored.span.entity_type == PERSON for answer in found for scored in answer.spans])
    known.model = model.reference
    known.n_sentences += n_sentences
    known.n_tokens += n_tokens
    model.metrics.tagged(n_sentences, n_tokens, n_persons)
    return found


async def _unless_gone(future: asyncio.Future[Value], receive: Receive) -> Value:
    """The future's result; it is cancelled, and ClientGone raised, when the client hangs up first."""
    loop = asyncio.get_running_loop()
    watching: asyncio.Task[None] | None = None

    def watch() -> None:
        nonlocal watching
        watching = loop.create_task(_cancel_when_gone(future, receive))

    timer = loop.call_later(WATCH_AFTER_S, watch)
    try:
        return await future
    except asyncio.CancelledError:
        if watching is not None and watching.done():
            raise ClientGone from None
        raise
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()


async def _cancel_when_gone(future: asyncio.Future[Value], receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    future.cancel()
