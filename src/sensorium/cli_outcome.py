"""How a command ends: what may go wrong becomes one line on standard error and an exit code.

0 done, 1 the call failed, 2 the command line or the environment is wrong, 3 no hub answers, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from sensorium import client
from sensorium.errors import SensoriumError, SettingsError

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


@contextmanager
def outcome() -> Iterator[None]:
    """Turn what may go wrong into one line on standard error and the exit code that the module's docstring promises."""
    try:
        yield
    except SettingsError as error:
        fail("\nsensorium: ".join(error.problems), USAGE)
    except client.HubUnreachable as error:
        fail(f"{error.message}; {error.hint}", UNREACHABLE)
    except SensoriumError as error:
        fail(error.message, FAILED)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output is gone; keep the interpreter from failing again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except OSError as error:
        fail(f"{error.filename or 'input or output'}: {error.strerror or error}", FAILED)


def fail(message: str, code: int) -> NoReturn:
    print(f"sensorium: {harmless(message)}", file=sys.stderr)
    raise typer.Exit(code)


def harmless(text: str, *, lines: bool = True) -> str:
    """Text that others wrote, for a terminal: what would steer it, or cannot be encoded, as its escape sequence; line ends stay where
    `lines` says so."""
    return "".join(one if one.isprintable() or (lines and one == "\n") else one.encode("unicode_escape").decode() for one in text)
