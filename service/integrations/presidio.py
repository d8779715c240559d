"""A recogniser of persons for Presidio's analyzer, and an engine that spares it a spaCy model.

    analyzer = AnalyzerEngine(nlp_engine=PlainNlpEngine())
    analyzer.registry.remove_recognizer("SpacyRecognizer")
    analyzer.registry.add_recognizer(NametagRecognizer())     # or NametagRecognizer(url="http://…")

Presidio runs its NLP engine on every text, for entities and for the words around what its patterns
find. With this recogniser the entities are not needed, and PlainNlpEngine cuts words and no more; a
spaCy model goes with the recogniser as well, and costs what it costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import spacy
from presidio_analyzer import EntityRecognizer, RecognizerResult
from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine
from spacy.tokens import Doc

from service.client import Nametag
from service.integrations.local import Found, LocalTagger

PERSON = "PERSON"


class NametagRecognizer(EntityRecognizer):  # type: ignore[misc]  # Presidio has no types
    """Finds persons, in this process or, with ``url``, by asking a service.

    ``model``: here a model folder, None the bundled one; there a model's name. ``threshold``: persons
    that score less are left out, and a low one finds more; None is the model's own.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        threshold: float | None = None,
        url: str | None = None,
        api_key: str | None = None,
        supported_language: str = "en",
    ) -> None:
        self._model = model
        self._threshold = threshold
        self._url = url
        self._api_key = api_key
        self._here: LocalTagger | None = None
        self._there: Nametag | None = None
        super().__init__([PERSON], name="NametagRecognizer", supported_language=supported_language)

    def load(self) -> None:
        """Presidio calls it once."""
        if self._url is not None:
            self._there = Nametag(self._url, api_key=self._api_key)
        else:
            self._here = LocalTagger(self._model, self._threshold)

    def analyze(
        self,
        text: str,
        entities: list[str],
        nlp_artifacts: NlpArtifacts | None = None,  # noqa: ARG002 - ours is not the engine's work
    ) -> list[RecognizerResult]:
        if PERSON not in entities:
            return []
        return [RecognizerResult(PERSON, each.start, each.end, each.score) for each in self._found(text)]

    def _found(self, text: str) -> list[Found]:
        if self._here is not None:
            return self._here.persons(text)
        assert self._there is not None
        sentences = self._there.tag_text(text, threshold=self._threshold, model=self._model)
        return [Found(p.start, p.end, p.score) for sentence in sentences for p in sentence.persons]


class PlainNlpEngine(NlpEngine):  # type: ignore[misc]
    """Words as spaCy cuts them, in lower case in place of lemmas; no entities."""

    engine_name = "nametag-plain"
    is_available = True

    def __init__(self, languages: Iterable[str] = ("en",)) -> None:
        self._nlp = {language: spacy.blank(language) for language in languages}

    def load(self) -> None:
        """There is nothing to load."""

    def is_loaded(self) -> bool:
        return True

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        return self._artifacts(self._nlp[language].make_doc(text), language)

    def process_batch(
        self,
        texts: Iterable[Any],
        language: str,
        batch_size: int = 1,  # noqa: ARG002
        n_process: int = 1,  # noqa: ARG002
        **_: Any,
    ) -> Iterator[tuple[str, NlpArtifacts]]:
        for text in texts:
            yield str(text), self.process_text(str(text), language)

    def is_stopword(self, word: str, language: str) -> bool:
        return bool(self._nlp[language].vocab[word].is_stop)

    def is_punct(self, word: str, language: str) -> bool:
        return bool(self._nlp[language].vocab[word].is_punct)

    def get_supported_entities(self) -> list[str]:
        return []

    def get_supported_languages(self) -> list[str]:
        return list(self._nlp)

    def _artifacts(self, doc: Doc, language: str) -> NlpArtifacts:
        return NlpArtifacts(
            entities=[],
            tokens=doc,
            tokens_indices=[token.idx for token in doc],
            lemmas=[token.lower_ for token in doc],
            nlp_engine=self,
            language=language,
        )
