"""Bad input ends in one line and a non-zero exit, an interruption in 130; a bug keeps its traceback."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import typer

# Every refused option or command: newer versions of typer carry a parser of their own, which has no public name.
REFUSED = cast(type[Exception], typer.BadParameter.__base__)


def hear_termination() -> None:
    """Let SIGTERM end the command as Ctrl-C does; otherwise the processes of a sweep would outlive it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def exit_code(app: typer.Typer, arguments: list[str], name: str) -> int:
    """Run a command line; an option that is refused becomes one line, and its exit code is handed back."""
    try:
        return int(app(args=arguments, prog_name=name, standalone_mode=False) or 0)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    except REFUSED as error:
        refused: Any = error
        asked = refused.ctx.command_path if refused.ctx is not None else name
        print(f"error: {refused.format_message().rstrip('.')}. See {asked} --help.", file=sys.stderr)
        return 2


@contextmanager
def one_line_errors(*, resumes: bool = True) -> Iterator[None]:
    """Turn the errors that users cause into one line on standard error.

    `GRADSCOPE_DEBUG=1` in the environment shows the traceback instead.

    Args:
        resumes: Whether the command keeps what it has finished and goes on from there; otherwise it writes at the end.
    """
    try:
        yield
    except KeyboardInterrupt:
        kept = "what was finished is kept; the same command resumes" if resumes else "nothing was written"
        print(f"interrupted: {kept}.", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        if os.environ.get("GRADSCOPE_DEBUG"):
            raise
        # A RuntimeError may be a defect of ours as well as bad input.
        hint = " GRADSCOPE_DEBUG=1 shows where." if isinstance(error, RuntimeError) else ""
        print(f"error: {_told(error)}{hint}", file=sys.stderr)
        raise SystemExit(2) from None


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return " ".join(str(error).split()) or type(error).__name__
