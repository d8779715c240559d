"""``python -m service``: serves until SIGTERM or SIGINT. Its settings are environment variables.

Exit code 0 after a clean shutdown; 2 where the settings, the address or a model cannot be used,
with one line on stderr that says which and why.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import replace
from importlib.util import find_spec

from model.backend import usable_cpus
from service.app import VERSION
from service.log import LOGGER, configure
from service.server import bound_socket
from service.settings import Settings, SettingsError, help_text, unknown_variables
from service.workers import serve, supervise

log = logging.getLogger(LOGGER)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serves person-name tagging over HTTP. Settings are environment variables:",
        epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nametag {VERSION}")
    parser.parse_args(arguments)
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        print(f"nametag: {error}", file=sys.stderr)
        return 2
    if settings.otel == "on" and find_spec("opentelemetry") is None:
        print("nametag: NAMETAG_OTEL is 'on': pip install 'nametag[otel]' first", file=sys.stderr)
        return 2
    settings = replace(settings, workers=settings.workers or usable_cpus())
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
        return supervise(settings, sock)
    serve(settings, sock)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
