"""The command `gradscope`."""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 fine, 2 bad input, 130 interrupted)."""
    from gradscope.cli.app import app

    try:
        app(args=sys.argv[1:] if arguments is None else arguments, prog_name="gradscope")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    return 0
