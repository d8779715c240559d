"""``nametag serve``: ``python -m service``, with its most used settings as arguments."""

from __future__ import annotations

import argparse
import os

from service.cli.arguments import model_folder

NAME = "serve"
HELP = "serve the REST API"
HAS_HELP = True
DESCRIPTION = """\
Serves the REST API until SIGTERM or SIGINT. What is not given here is read from the environment:
`python -m service --help` lists all settings."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address to listen on (NAMETAG_HOST, or 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (NAMETAG_PORT, or 8000)")
    parser.add_argument(
        "--model", action="append", default=[], metavar="MODEL",
        help="a model folder, or a bundled model's name; the first is the default (NAMETAG_MODEL)",
    )  # fmt: skip
    parser.add_argument("--workers", help="processes; 0 is one for each core (NAMETAG_WORKERS, or 1)")


def run(asked: argparse.Namespace) -> int:
    from service.__main__ import main

    if asked.model:
        os.environ["NAMETAG_MODEL"] = os.pathsep.join(str(model_folder(each)) for each in asked.model)
    for name in ("host", "port", "workers"):
        if (value := getattr(asked, name)) is not None:
            os.environ[f"NAMETAG_{name.upper()}"] = value
    return main([])
