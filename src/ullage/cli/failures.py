"""
What a command says when it fails, and what it exits with.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Final, NamedTuple

import click

from ullage.cli.output import printable, say
from ullage.cli.signals import Interrupted
from ullage.errors import ImageError

__all__ = ["BROKEN_PIPE", "INTERNAL", "OUTPUT_FAILED", "USAGE", "Failure", "describe", "report", "tell"]

OUTPUT_FAILED: Final = 1
USAGE: Final = 2
INTERNAL: Final = 70  # EX_SOFTWARE of sysexits.h
BROKEN_PIPE: Final = 141  # as the shell reports a program that SIGPIPE ended


class Failure(NamedTuple):
    """
    One line, perhaps a hint, and an exit code. Without a message nothing is said.
    """

    message: str
    hint: str | None
    exit_code: int


def report(error: BaseException) -> int:
    """
    Say on stderr what went wrong; the exit code.
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else INTERNAL
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # `ullage` alone: whoever types that wants to know what there is.
        say(error.format_message())
        return USAGE
    failure = describe(error)
    tell(failure)
    if os.environ.get("ULLAGE_DEBUG") and failure.message:
        traceback.print_exception(error)
    return failure.exit_code


def tell(failure: Failure, *, about: str = "") -> None:
    """
    ``error: …`` and, on a line of its own, ``hint: …``.
    """
    if about in failure.message:
        about = ""
    if failure.message:
        say(f"error: {about}{': ' if about else ''}{printable(failure.message)}")
    if failure.hint:
        say(f"hint: {printable(failure.hint)}")


def describe(error: BaseException) -> Failure:  # noqa: PLR0911 -- a table: one line for each kind
    """
    The words and the code for any exception.
    """
    if isinstance(error, ImageError):
        return Failure(error.message, error.hint, error.exit_code)
    if isinstance(error, click.Abort):
        return Failure("nobody answered", None, OUTPUT_FAILED)
    if isinstance(error, click.UsageError):
        return _usage(error)
    if isinstance(error, Interrupted):
        return Failure(str(error), None, error.exit_code)
    if isinstance(error, BrokenPipeError):
        return Failure("", None, BROKEN_PIPE)
    if isinstance(error, OSError) and _cannot_write():
        return Failure(f"cannot write the output: {error.strerror}", None, OUTPUT_FAILED)
    what = type(error).__name__
    return Failure(
        f"internal: {what}: {error}" if str(error) else f"internal: {what}",
        "this is a mistake in ullage; ULLAGE_DEBUG=1 in the environment shows where",
        INTERNAL,
    )


def _usage(error: click.UsageError) -> Failure:
    message = error.format_message().strip().removesuffix(".")
    message = message[:1].lower() + message[1:]
    possible = getattr(error, "possible", None) or getattr(error, "possibilities", None)
    if possible:
        # click says so in the message as well, in its own form.
        message = message.partition(" Did you mean")[0].partition(" (Possible")[0].rstrip(". ")
        return Failure(message, f"did you mean {' or '.join(sorted(possible))}?", USAGE)
    command = error.ctx.command_path if error.ctx else "ullage"
    return Failure(message, f"`{command} --help` shows how", USAGE)


def _cannot_write() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False
