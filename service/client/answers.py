"""What the service answers with, typed. Offsets count what was asked for (``offset_unit``), half open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.client.errors import NametagError, error_of

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    start: int
    end: int
    label: str  # IOB2
    is_person: bool
    score: float  # the probability of the label


@dataclass(frozen=True, slots=True)
class Person:
    """``first_token`` and ``last_token`` are indices of the sentence's tokens, half open."""

    text: str
    start: int
    end: int
    first_token: int
    last_token: int
    score: float  # the probability that exactly this span is a person


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    tokens: tuple[Token, ...]
    persons: tuple[Person, ...]
    model: str  # name@version, which may change between the parts of a large job


@dataclass(frozen=True, slots=True)
class Streamed:
    """The answer to one document of a stream: its sentences, or what is wrong with it."""

    index: int  # of the document, from 0
    id: str | int | float | None  # that it was given
    sentences: tuple[Sentence, ...]
    error: NametagError | None = None

    @property
    def persons(self) -> tuple[Person, ...]:
        return tuple(person for sentence in self.sentences for person in sentence.persons)


@dataclass(frozen=True, slots=True)
class Replacement:
    """One person of a text, old and new; the same ``person`` is the same one throughout the request."""

    start: int
    end: int
    new_start: int
    new_end: int
    replacement: str
    person: int
    score: float


@dataclass(frozen=True, slots=True)
class Redacted:
    text: str
    replacements: tuple[Replacement, ...]


def sentences_of(answer: Object) -> tuple[Sentence, ...]:
    model = f"{answer['model']['name']}@{answer['model']['version']}"
    return tuple(
        Sentence(
            each["text"],
            tuple(
                Token(t["text"], t["start"], t["end"], t["label"], bool(t["person"]), t["score"])
                for t in each["tokens"]
            ),
            tuple(Person(**person) for person in each["persons"]),
            model,
        )
        for each in answer["sentences"]
    )


def streamed(said: Object, index: int) -> Streamed:
    """Of one line of a stream's answer."""
    if "code" in said:
        return Streamed(index, said.get("id"), (), error_of(said["status"], said))
    return Streamed(index, said.get("id"), sentences_of(said))


def redacted(said: Object) -> Redacted:
    return Redacted(said["text"], tuple(Replacement(**each) for each in said["replacements"]))
