"""python -m benchmarks.peer_apps echo|bytes|spacy|presidio --port N: what ours is measured beside.

    spacy     en_core_web_sm, NER only, behind FastAPI `async def`: POST /tag {"texts": [...]}
    presidio  its analyzer behind the REST shape of its own server: POST /analyze {"text": ..., ...}
    echo      FastAPI that reads our request and writes an answer of ours, and does nothing between
    bytes     the same bytes without FastAPI: what uvicorn and the client can do at most

All run in uvicorn with uvloop and httptools, as ours does. The echoes answer with the files
ECHO_1 and ECHO_32 (environment variables), by the number of sentences. The peers import nothing of
this project, so that this file runs in their own environment.
"""

# No `from __future__ import annotations` here: FastAPI could not resolve names that only a function knows.
import argparse
import os
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

PERSON = "PERSON"


class Texts(BaseModel):
    texts: list[str]


class Analysis(BaseModel):
    """What Presidio's own server reads; of the rest of its options nobody here makes use."""

    text: str | list[str]
    language: str
    entities: list[str] | None = None


def spacy_app() -> FastAPI:
    from benchmarks.peers import Spacy

    nlp = Spacy().nlp
    app = FastAPI()

    @app.post("/tag")
    async def tag(request: Texts) -> dict[str, Any]:
        # One text by nlp(text): nlp.pipe costs more for one.
        docs = (
            [nlp(request.texts[0])] if len(request.texts) == 1 else nlp.pipe(request.texts, batch_size=32)
        )
        return {
            "results": [
                [
                    {"text": e.text, "start": e.start_char, "end": e.end_char, "label": e.label_}
                    for e in doc.ents
                    if e.label_ == PERSON
                ]
                for doc in docs
            ]
        }

    return app


def presidio_app() -> FastAPI:
    from benchmarks.peers import Presidio

    batches = Presidio().batches
    app = FastAPI()

    @app.post("/analyze")
    async def analyze(request: Analysis) -> list[Any]:
        if isinstance(request.text, str):
            found = batches.analyzer_engine.analyze(
                request.text, language=request.language, entities=request.entities
            )
            return [_result(one) for one in found]
        many = batches.analyze_iterator(
            request.text, language=request.language, entities=request.entities, batch_size=32
        )
        return [[_result(one) for one in found] for found in many]

    return app


def _result(one: Any) -> dict[str, Any]:
    return {
        "entity_type": one.entity_type,
        "start": one.start,
        "end": one.end,
        "score": one.score,
        "analysis_explanation": None,
    }


def _files() -> dict[int, bytes]:
    return {n: Path(os.environ[f"ECHO_{n}"]).read_bytes() for n in (1, 32)}


def echo_app() -> FastAPI:
    from service.schemas import TagResponse, TagSentences

    answers = {n: TagResponse.model_validate_json(content) for n, content in _files().items()}
    app = FastAPI()

    @app.post("/v1/tag")
    async def tag(request: TagSentences) -> TagResponse:
        return answers[1 if len(request.sentences) == 1 else 32]

    return app


def bytes_app() -> Any:
    answers = _files()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        # Requests of 32 sentences are longer than any single one of the texts used.
        answer = answers[32 if len(body) > int(os.environ["ECHO_LONG"]) else 1]
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("app", choices=("echo", "bytes", "spacy", "presidio"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    uvicorn.run(
        f"benchmarks.peer_apps:{given.app}_app", factory=True, host="127.0.0.1", port=given.port,
        workers=given.workers, access_log=False, loop="uvloop", http="httptools",
    )  # fmt: skip
