"""Bad input ends in one line and a non-zero exit, an interruption in 130; a bug keeps its traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn the errors that users cause into one line on standard error.

    `GRADSCOPE_DEBUG=1` in the environment shows the traceback instead.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; the same command resumes.", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        if os.environ.get("GRADSCOPE_DEBUG"):
            raise
        print(f"error: {_told(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return " ".join(str(error).split()) or type(error).__name__
