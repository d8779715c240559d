"""A spaCy pipeline component: ``nlp.add_pipe("nametag")`` sets ``doc.ents`` to the persons it finds.

    nlp = spacy.blank("en")                      # or any pipeline
    nlp.add_pipe("nametag", config={"threshold": 0.5})
    for doc in nlp.pipe(texts):
        print([(ent.text, ent._.nametag_score) for ent in doc.ents])

It labels spaCy's own tokens, white space left out, sentence by sentence: spaCy's sentences where
an earlier component has set them, else as the service cuts a document. Entities of its label that
are there already are replaced, so that after a ``ner`` the persons are ours; of the others, those that
overlap one of ours go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import minibatch

from model.labels import PERSON
from model.tokeniser import Tokens
from service.integrations.local import LocalTagger

SCORE = "nametag_score"  # of an entity: ent._.nametag_score
DEFAULTS = {"model": None, "threshold": None, "label": "PERSON"}

if not Span.has_extension(SCORE):
    Span.set_extension(SCORE, default=None)


@dataclass(frozen=True, slots=True)
class _Part:
    """One sentence of a document."""

    doc: int  # which of a batch
    places: list[int]  # of its tokens in the document
    words: list[str]


class NametagComponent:
    """``model``: a model folder, None the bundled one; ``label``: what persons are called in doc.ents."""

    def __init__(self, model: str | None, threshold: float | None, label: str) -> None:
        self._given = (model, threshold, label)
        self._tagger = LocalTagger(model, threshold)
        self._label = label

    def __reduce__(self) -> Any:
        # For nlp.pipe(n_process=…) where processes are spawned: what is loaded cannot be sent.
        return NametagComponent, self._given

    def __call__(self, doc: Doc) -> Doc:
        self._annotate([doc])
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        for docs in minibatch(stream, size=batch_size):
            self._annotate(docs)
            yield from docs

    def _annotate(self, docs: list[Doc]) -> None:
        of_docs = [list(self._parts(number, doc)) for number, doc in enumerate(docs)]
        answers = self._tagger.tag([[part.words for part in parts] for parts in of_docs])
        found: list[list[Span]] = [[] for _ in docs]
        for part, tagged in zip(chain.from_iterable(of_docs), chain.from_iterable(answers), strict=True):
            for scored in tagged.spans:
                if scored.span.entity_type == PERSON:
                    first, last = part.places[scored.span.start], part.places[scored.span.end - 1]
                    span = Span(docs[part.doc], first, last + 1, label=self._label)
                    span._.set(SCORE, round(scored.score, 6))
                    found[part.doc].append(span)
        for doc, persons in zip(docs, found, strict=True):
            taken = {i for person in persons for i in range(person.start, person.end)}
            others = [
                each
                for each in doc.ents
                if each.label_ != self._label and taken.isdisjoint(range(each.start, each.end))
            ]
            doc.ents = (*others, *persons)

    def _parts(self, number: int, doc: Doc) -> Iterator[_Part]:
        for places in self._sentences(doc):
            if places:
                yield _Part(number, places, [doc[i].text for i in places])

    def _sentences(self, doc: Doc) -> Iterator[list[int]]:
        """The tokens of each sentence, without white space; some may have none."""
        if doc.has_annotation("SENT_START"):
            yield from ([token.i for token in sentence if not token.is_space] for sentence in doc.sents)
            return
        words = [token for token in doc if not token.is_space]
        texts, starts = [token.text for token in words], [token.idx for token in words]
        ends = [start + len(text) for start, text in zip(starts, texts, strict=True)]
        for first, last in self._tagger.sentences(doc.text, Tokens(texts, starts, ends)):
            yield [token.i for token in words[first:last]]


# spaCy is not there where types are checked.
@Language.factory("nametag", default_config=DEFAULTS, assigns=["doc.ents"])  # type: ignore[untyped-decorator]
def make_component(
    nlp: Language,  # noqa: ARG001 - spaCy gives both
    name: str,  # noqa: ARG001
    model: str | None,
    threshold: float | None,
    label: str,
) -> NametagComponent:
    return NametagComponent(model, threshold, label)
