"""The command `gradscope`."""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 fine, 2 bad input, 130 interrupted)."""
    try:
        from gradscope.cli.app import app
        from gradscope.cli.errors import exit_code, hear_termination

        if arguments is None:
            hear_termination()
        asked = sys.argv[1:] if arguments is None else arguments
        # Without a verb the help is shown, but nothing was done: the code is that of a wrong command.
        return exit_code(app, asked, "gradscope") if asked else exit_code(app, ["--help"], "gradscope") or 2
    except KeyboardInterrupt:
        print("interrupted before anything was begun.", file=sys.stderr)
        return 130
