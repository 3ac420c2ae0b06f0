"""The verbs of the command line. Nothing heavy is imported before a verb runs."""

from pathlib import Path
from typing import Annotated

import typer

from gradscope.cli.analysis import Data, DataRoot, FirstSeed, Preset, Seeds, Workers
from gradscope.cli.errors import one_line_errors
from gradscope.version import __version__

app = typer.Typer(
    help="Do gradients shatter, which blocks matter, how ill-conditioned is it? For any torch.nn.Module.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str,
    typer.Option(
        help="A named network with options (resnet:depth=20) or your own as package.module:factory."
    ),
]
Examples = Annotated[int, typer.Option(min=2, help="Number of examples to measure on.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the frame, its figures and provenance; reports/<verb>-of-<model> if left out. An earlier "
        "run's are replaced."
    ),
]
Weights = Annotated[Path | None, typer.Option(help="A safetensors file with the model's state dict.")]
Epochs = Annotated[int, typer.Option(min=0, help="Train the network for so many epochs first.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the network's weights and of every draw.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gradscope {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Takes the options that come before a verb."""


@app.command()
def report(
    preset: Preset = "quick",
    data: Data = "digits",
    data_root: DataRoot = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("reports"),
    seeds: Seeds = 5,
    first_seed: FirstSeed = 0,
    workers: Workers = None,
    example: Annotated[
        Path | None, typer.Option(help="Also write a small copy for a repository here.")
    ] = None,
) -> None:
    """Re-test the papers' claims: train, probe, judge, and write one self-contained report."""
    with one_line_errors():
        from gradscope.cli.example import check_replaceable, write_example
        from gradscope.cli.reporting import run_all
        from gradscope.studies.settings import Settings

        if example is not None:
            check_replaceable(example)
        several = tuple(range(first_seed, first_seed + seeds))
        run_all(Settings(preset, data, data_root, several, out, workers, show=True))
        if example is not None:
            print(write_example(out, example))


@app.command()
def shattering(
    model: Model,
    data: Data = "digits",
    data_root: DataRoot = None,
    weights: Weights = None,
    epochs: Epochs = 0,
    examples: Examples = 128,
    seed: Seed = 0,
    source: Annotated[str, typer.Option(help="What is differentiated: output, logit or loss.")] = "output",
    grams: Annotated[
        bool, typer.Option("--grams", help="All that the layers' Gram matrices of gradients say, too.")
    ] = False,
    out: Out = None,
) -> None:
    """Do the gradients of different examples agree, layer by layer, and do they arrive at all?"""
    with one_line_errors(resumes=False):
        from gradscope.cli import shattering as verb
        from gradscope.cli.measure import Asked

        verb.shattering(
            Asked("shattering", model, data, data_root, weights, epochs, examples, seed, out), source, grams
        )


@app.command()
def lesions(
    model: Model,
    data: Data = "digits",
    data_root: DataRoot = None,
    weights: Weights = None,
    epochs: Epochs = 0,
    examples: Examples = 1000,
    seed: Seed = 0,
    metric: Annotated[str, typer.Option(help="error, loss, margin, kl, or several: error,kl.")] = "error",
    sets: Annotated[
        str, typer.Option(help="Numbers of branches to close together, such as 2,4,8; spread for up to ten.")
    ] = "",
    subsets: Annotated[
        int, typer.Option(min=1, help="Random sets for each number; 30 or more advised.")
    ] = 30,
    greedy: Annotated[
        int, typer.Option(min=0, help="Close so many, always the one missed least by the first metric.")
    ] = 0,
    layers: Annotated[
        str, typer.Option(help="Replace these layers of a plain network instead: features.*")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost, and stop.")] = False,
    out: Out = None,
) -> None:
    """What closing each residual branch costs, random sets of them, and the least missed."""
    with one_line_errors(resumes=False):
        from gradscope.cli import measure
        from gradscope.cli.lesions import Closing, lesions

        asked = measure.Asked("lesions", model, data, data_root, weights, epochs, examples, seed, out)
        lesions(asked, Closing(metric, sets, subsets, greedy, layers, dry_run))


@app.command()
def paths(
    model: Model,
    data: Data = "digits",
    data_root: DataRoot = None,
    weights: Weights = None,
    epochs: Epochs = 0,
    examples: Examples = 32,
    seed: Seed = 0,
    draws: Annotated[int, typer.Option(min=0, help="Random-sign draws for norms of single paths.")] = 4,
    sampled: Annotated[int, typer.Option(min=0, help="Single paths drawn for each length.")] = 0,
    lengths: Annotated[str, typer.Option(help="The longest length in the spectrum, or all.")] = "all",
    source: Annotated[str, typer.Option(help="What is differentiated: loss, logit or margin.")] = "loss",
    norms: Annotated[
        str, typer.Option(help="Of the whole batch's gradient, or of each example's.")
    ] = "batch",
    by: Annotated[str, typer.Option(help="Split by groups too: attention, stage or kind.")] = "",
    junctions: Annotated[
        str, typer.Option(help="Pattern of the junctions to count; the outermost with a skip if left out.")
    ] = "",
    out: Out = None,
) -> None:
    """The gradient by the number of residual branches its paths cross, and how much of it crosses each block."""
    with one_line_errors(resumes=False):
        from gradscope.cli import paths as verb
        from gradscope.cli.measure import Asked

        verb.paths(
            Asked("paths", model, data, data_root, weights, epochs, examples, seed, out),
            verb.Splitting(draws, sampled, lengths, source, norms, by, junctions),
        )


@app.command()
def curvature(
    model: Model,
    data: Data = "digits",
    data_root: DataRoot = None,
    weights: Weights = None,
    epochs: Epochs = 0,
    examples: Examples = 256,
    seed: Seed = 0,
    k: Annotated[int, typer.Option(min=1, help="Eigenvalues at each end.")] = 5,
    steps: Annotated[int, typer.Option(min=2, help="Lanczos steps of the density's probes.")] = 40,
    learning_rate: Annotated[
        float, typer.Option(min=0.0, help="Of the training, to be held against the largest eigenvalue.")
    ] = 0.0,
    momentum: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of the training, which moves the limit of stability.")
    ] = 0.0,
    nesterov: Annotated[bool, typer.Option("--nesterov", help="That momentum is Nesterov's.")] = False,
    parameters: Annotated[
        str, typer.Option(help="Which parameters: globs or module paths, separated by commas.")
    ] = "",
    by: Annotated[str, typer.Option(help="Blocks too: layer, block, stage or parameter.")] = "",
    couplings: Annotated[bool, typer.Option(help="Norms between all pairs of these blocks too.")] = False,
    minibatches: Annotated[
        str, typer.Option(help="Sizes of minibatches to compare with, such as 16,64.")
    ] = "",
    out: Out = None,
) -> None:
    """How ill-conditioned the Hessian is: eigenvalues, condition numbers by name, density."""
    with one_line_errors(resumes=False):
        from gradscope.cli import curvature as verb
        from gradscope.cli.measure import Asked

        verb.curvature(
            Asked("curvature", model, data, data_root, weights, epochs, examples, seed, out),
            verb.Looking(k, steps, learning_rate, parameters, by, minibatches, couplings, momentum, nesterov),
        )


@app.command()
def nets() -> None:
    """The networks that --model knows by name, with their options."""
    import inspect

    from gradscope.nets.registry import FAMILIES

    for name, family in sorted(FAMILIES.items()):
        print(f"{name}{inspect.signature(family)}".replace(" -> gradscope.nets.network.Network", ""))
        print(f"    {(family.__doc__ or '').strip().splitlines()[0]}")
