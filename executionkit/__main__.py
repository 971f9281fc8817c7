"""The command line: `executionkit COMMAND`, or `python -m executionkit COMMAND`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

import anyio

from executionkit.errors import ExecutionKitError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What stands on the command line after the program's name; None for that of this process.

    Returns:
        The exit code: 0 where the command did its work, 1 where it did not, 2 where it was not understood.
    """
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] | None = getattr(options, "command", None)
    if command is None:
        _parser().print_help()
        return 0
    try:
        code = command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="executionkit", description="Typed reasoning patterns for language models."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    doctor = commands.add_parser(
        "doctor",
        help="find out in a few small calls what a server takes",
        description="Makes at most 20 calls of at most 16 output tokens. Prints what the server takes, the "
        "Dialect(...) to give to a Provider, and what that cost. Asks before it spends.",
    )
    doctor.add_argument("url", metavar="URL", help="the base URL, such as https://api.openai.com/v1")
    doctor.add_argument("model", metavar="MODEL", help="the model's name there")
    doctor.add_argument("--key-env", metavar="NAME", help="the environment variable that holds the key")
    doctor.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for each call (60)")
    doctor.add_argument("--yes", action="store_true", help="do not ask before spending")
    doctor.set_defaults(command=_doctor)
    servers = commands.add_parser("servers", help="print the table of servers that are known")
    servers.set_defaults(command=_servers)
    journal = commands.add_parser("journal", help="show what a journal has kept")
    about = journal.add_subparsers(title="commands", metavar="COMMAND", required=True)
    runs = about.add_parser("ls", help="list its runs")
    runs.add_argument("file", metavar="FILE", help="the journal's file")
    runs.set_defaults(command=_journal)
    show = about.add_parser("show", help="list the calls of a run, with what each cost")
    show.add_argument("file", metavar="FILE", help="the journal's file")
    show.add_argument("run", metavar="RUN", help="the run's name")
    show.add_argument("--prompts", action="store_true", help="show what was asked, where that is kept")
    show.set_defaults(command=_journal)
    return parser


def _doctor(options: argparse.Namespace) -> int:
    from executionkit.doctor import MOST_CALLS, TOKENS_A_CALL, diagnose
    from executionkit.providers.openai import Provider
    from executionkit.providers.secret import Secret

    key = Secret.from_env(options.key_env) if options.key_env else Secret("")
    try:
        provider = Provider(options.url, options.model, key, timeout=options.timeout)
    except (TypeError, ValueError) as error:
        return _failed(str(error))
    asked = f"Ask {provider.server} at most {MOST_CALLS} times for {TOKENS_A_CALL} tokens each?"
    if not options.yes and not _agrees(asked):
        return _failed("nothing was sent")
    try:
        diagnosis = anyio.run(partial(diagnose, provider))
    except ExecutionKitError as error:
        return _failed(f"{error}\nspent: {error.cost}")
    width = max(len(finding.what) for finding in diagnosis.findings)
    for finding in diagnosis.findings:
        _say(f"{finding.what:{width}}  {finding.answer}")
    _say(f"\ndialect = {diagnosis.dialect!r}\n\nspent: {diagnosis.cost}")
    return 0


def _servers(options: argparse.Namespace) -> int:  # noqa: ARG001 - every command takes them
    from executionkit.providers.chat.servers import servers_table

    _say(servers_table())
    return 0


def _journal(options: argparse.Namespace) -> int:
    from executionkit.journal import Journal
    from executionkit.journal.shown import calls_shown, runs_shown

    if not Path(options.file).is_file():
        return _failed(f"there is no file {options.file}")
    if not Path(options.file).stat().st_size:  # opening it would make a journal of it
        return _failed(f"there is nothing in {options.file}")
    try:
        with Journal(options.file) as journal:
            runs = journal.runs()
            if "run" not in options:
                lines = [*runs_shown(runs)] or ["there are no runs in it"]
            else:
                rows = journal.rows(options.run)
                (info,) = [each for each in runs if each.name == options.run]
                lines = [*calls_shown(info, rows, prompts=options.prompts)]
                if info.pipeline:
                    lines.append(f"runs of this pipeline: {_told(partial(journal.past_runs, info.pipeline))}")
    except ExecutionKitError as error:
        return _failed(str(error))
    for line in lines:
        _say(line)
    return 0


def _told(read: Callable[[], object]) -> str:
    """Return what is read as text, or why it cannot be."""
    try:
        return str(read())
    except ExecutionKitError as error:
        return f"unknown: {error}"


def _agrees(question: str) -> bool:
    """Ask at the terminal; whoever is not there has not agreed."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def _say(text: str) -> None:
    _write(text, sys.stdout)


def _failed(text: str) -> int:
    _write(f"executionkit: {text}", sys.stderr)
    return 1


def _write(text: str, to: TextIO) -> None:
    """Write a line; what the terminal has no character for is written out."""
    encoding = to.encoding or "utf-8"
    to.write(f"{text.encode(encoding, 'backslashreplace').decode(encoding)}\n")


if __name__ == "__main__":
    sys.exit(main())
