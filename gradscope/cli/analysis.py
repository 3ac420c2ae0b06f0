"""`python -m analyses.<name>`: one analysis from the shell."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gradscope.cli.errors import exit_code, hear_termination, one_line_errors

Presets = Mapping[str, Any]

Preset = Annotated[str, typer.Option(help="Size: quick or standard.")]
Data = Annotated[str, typer.Option(help="Data set: digits (embedded) or cifar10 (local files).")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder with the CIFAR-10 binary files.")]
Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Seeds = Annotated[int, typer.Option(min=1, help="Number of repetitions; verdicts need five.")]
FirstSeed = Annotated[int, typer.Option(min=0, help="First seed; the others follow it.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; by default one a core.")]


def run(main: Callable[..., Any], presets: Presets) -> None:
    """Parse the command line, run the analysis, write its page and print its verdicts.

    Args:
        main: `main(settings) -> Section`.
        presets: The sizes it has, by name.
    """
    module = sys.modules[main.__module__]
    name = Path(module.__file__ or "").stem

    def command(
        preset: Preset = "quick",
        data: Data = "digits",
        data_root: DataRoot = None,
        out: Out = Path("reports"),
        seeds: Seeds = 5,
        first_seed: FirstSeed = 0,
        workers: Workers = None,
    ) -> None:
        from gradscope.cli.reporting import run_one
        from gradscope.studies.settings import Settings

        with one_line_errors():
            if preset not in presets:
                raise ValueError(f"preset is one of {', '.join(presets)}, got {preset!r}.")
            several = tuple(range(first_seed, first_seed + seeds))
            run_one(name, main, Settings(preset, data, data_root, several, out, workers, show=True))

    command.__doc__ = module.__doc__
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    hear_termination()
    sys.exit(exit_code(app, sys.argv[1:], f"python -m analyses.{name}"))
