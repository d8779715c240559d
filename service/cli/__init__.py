"""``nametag`` on the command line: tags and redacts files in this process, without a server.

    inputs (files → records) → chunks → engine (all cores, in order) → work (records → lines) → outputs

Only what a command needs is imported, when it runs: ``nametag --help`` reads none of it.
"""

from __future__ import annotations

import argparse
import os
import sys

from service.cli import models, redact, run, serve, tag
from service.cli.errors import CliError

COMMANDS = (tag, redact, serve, run.TRAIN, run.EVALUATE, models)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="nametag",
        description="Finds people's names in text.",
        epilog="Exit codes: 0; 1 where some input was bad and the rest is done; 2 for bad arguments.",
    )
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.NAME, help=command.HELP, description=command.DESCRIPTION, add_help=command.HAS_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return made


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if sys.stderr is None:  # it was closed: what is meant for it would go to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        if arguments and arguments[0] in (run.TRAIN.NAME, run.EVALUATE.NAME):
            # Their arguments are not ours to read: python -m training says what is wrong with them.
            return run.passed_on(arguments)
        asked = parser().parse_args(arguments)
        code: int = asked.run(asked)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except CliError as error:
        print(f"nametag: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("nametag: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has enough.
        _drop_stdout()
        return 141
    except OSError as error:  # as of a full disk: where the output goes
        print(f"nametag: {error.filename or 'stdout'}: {error.strerror or error}", file=sys.stderr)
        _drop_stdout()
        return 1


def _drop_stdout() -> None:
    """What Python would flush at the end goes nowhere."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
