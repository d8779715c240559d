"""Surfaces for clients that people have already: one file each, on the same steps as /v1/tag.

A surface is a module of this package whose ``SURFACE`` says what it is (service/compat/wire.py).
A new one is its file and its name below; only those that NAMETAG_COMPAT turns on are imported.

They are not in /openapi.json: these are other people's protocols, which have descriptions and
clients of their own, and some cannot be written down there (bytes behind JSON, a Python literal in
a query). What that document describes stays one API, from which a client can be generated. /docs
lists them, each with a command that runs.
"""

from __future__ import annotations

SURFACES = ("huggingface", "presidio", "inference", "corenlp", "comprehend", "labelstudio")
