"""``python -m service``: serves until SIGTERM or SIGINT. Its settings are environment variables.

``python -m service new-key NAME`` makes a key instead. Exit code 0 after a clean shutdown; 2 where
the settings, the keys, the address or a model cannot be used, with one line on stderr that says
which and why.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from model.backend import usable_cpus
from service.app import VERSION
from service.keys import ADMIN, USER, KeysError, new_key
from service.observing.log import LOGGER, configure
from service.server import bound_socket
from service.settings import Settings, SettingsError, help_text, unknown_variables
from service.workers import Supervisor, serve

log = logging.getLogger(LOGGER)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serves person-name tagging over HTTP. Settings are environment variables:",
        epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nametag {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="[new-key]")
    new = commands.add_parser(
        "new-key",
        help="make a key for NAMETAG_KEYS_FILE",
        description="Writes the line for the keys file to stdout, and to stderr, this once, the key.",
    )
    new.add_argument("name", metavar="NAME", help="whose key it is; the log says it")
    new.add_argument("--admin", action="store_true", help="it may load and unload models too")
    new.add_argument("--rate", type=float, metavar="N", help="requests per second it may ask, at most")
    asked = parser.parse_args(arguments)
    if asked.command:
        return _make_key(asked.name, ADMIN if asked.admin else USER, asked.rate)
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        print(f"nametag: {error}", file=sys.stderr)
        return 2
    if settings.otel == "on" and find_spec("opentelemetry") is None:
        print("nametag: NAMETAG_OTEL is 'on': pip install 'nametag[otel]' first", file=sys.stderr)
        return 2
    settings = replace(settings, workers=settings.workers or (1 if _on_gpu(settings) else usable_cpus()))
    configure(settings.log_level)
    if unknown := unknown_variables(os.environ):
        log.warning("unknown settings are ignored", extra={"fields": {"variables": unknown}})
    try:
        sock = bound_socket(settings)
    except OSError as error:
        print(
            f"nametag: cannot listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr
        )
        return 2
    if settings.workers > 1:
        return Supervisor(settings, sock).run()
    serve(settings, sock)
    return 0


def _on_gpu(settings: Settings) -> bool:
    """Whether a GPU will compute, as far as can be told without importing torch."""
    if settings.device == "auto" and settings.backend != "onnx":
        return find_spec("torch") is not None and Path("/dev/nvidiactl").exists()
    return settings.device == "cuda"


def _make_key(name: str, role: str, rate: float | None) -> int:
    try:
        secret, key = new_key(name, role, rate)
    except KeysError as error:
        print(f"nametag: {error}", file=sys.stderr)
        return 2
    # Apart, so that `new-key ada >> keys.txt` appends the line, and never the key.
    print(f"The key, which nothing will show again: {secret}", file=sys.stderr)
    print(key.line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
