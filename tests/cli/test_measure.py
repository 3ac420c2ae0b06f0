"""The verbs that look at one network: the functions' own numbers, kept with their figure and provenance."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from tiny_reports import few_digits

import gradscope as gs
from gradscope.cli import main
from gradscope.instruments.recalibrate import recalibrated
from gradscope.studies import settings as settings_module
from gradscope.studies.layer_lesion_study import layer_lesion_study

FACTORY = """
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(12, 12)

    def forward(self, x):
        return x + self.inner(x).relu()

def residual():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), Block(), Block(), nn.Linear(12, 10))
"""
SMALL = "resnet:depth=8,width=4"
DATA = few_digits()
IMAGES = DATA.test[0][:16], DATA.test[1][:16]


def small(seed: int = 3) -> torch.nn.Module:
    return gs.nets.build("resnet", depth=8, width=4, channels=1, classes=10, seed=seed)


@pytest.fixture(autouse=True)
def data(monkeypatch):
    monkeypatch.setattr(settings_module, "digits", lambda: DATA)


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_networks:residual"


def run(verb: str, out: Path, *options: str, model: str = SMALL, seed: int = 3) -> pd.DataFrame:
    """The frame that a verb keeps."""
    asked = ["--model", model, "--examples", "16", "--seed", str(seed), "--out", str(out)]
    assert main([verb, *asked, *options]) == 0
    return pd.read_parquet(out / "readings.parquet")


def assert_same(kept: pd.DataFrame, computed: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(kept[computed.columns], computed, check_exact=True, check_dtype=False)


def test_shattering_is_gradient_correlation_and_flow(tmp_path, capsys):
    def computed(source: str, *more: pd.DataFrame) -> pd.DataFrame:
        pair = small(), IMAGES
        frames = [gs.gradient_correlation(pair, source=source), gs.gradient_flow(pair, source=source), *more]
        return pd.concat(frames, ignore_index=True)

    assert_same(run("shattering", tmp_path / "a"), computed("output"))
    told = capsys.readouterr().out
    assert "R at the input is" in told and "a layer" in told
    assert {path.name for path in (tmp_path / "a").glob("*.png")} == {"correlation.png", "flow.png"}
    agreement = gs.gradient_agreement((small(), IMAGES), source="loss", seed=3)
    assert_same(run("shattering", tmp_path / "b", "--source", "loss", "--grams"), computed("loss", agreement))
    assert (tmp_path / "b" / "agreement.png").is_file()


def test_paths_is_path_spectrum(tmp_path):
    pair = small(), IMAGES
    computed = [
        gs.path_moments(pair),
        gs.path_spectrum(pair, draws=2, seed=3),
        gs.block_participation(pair),
    ]
    kept = run("paths", tmp_path, "--draws", "2")
    assert_same(kept, pd.concat(computed, ignore_index=True))
    assert {path.name for path in tmp_path.glob("*.png")} == {"spectrum.png", "participation.png"}


def test_paths_by_groups_and_with_single_paths(tmp_path, capsys):
    options = ["--sampled", "1", "--by", "kind", "--source", "margin", "--lengths", "2", "--norms", "example"]
    kept = run("paths", tmp_path, *options)
    assert kept["path_length"].max() == 3 and set(kept["source"]) == {"margin"}
    assert {"mean_path_norm", "participation"} <= set(kept["quantity"])
    assert kept.query("quantity == 'coherent_norm' and norms == 'example'")["path_length"].min() == 0
    assert (tmp_path / "triptych.png").exists() and (tmp_path / "groups.png").exists()
    told = capsys.readouterr().out
    assert "mean path length" in told and "by kind, mean number of branches crossed: identity " in told
    shares = kept.query("quantity == 'signed_share'").groupby("study")["value"].sum()
    assert shares["graded_path_spectrum"] == pytest.approx(1, abs=1e-4) and shares["path_spectrum"] < 1.5


def test_paths_of_one_group_and_of_some_junctions(tmp_path, capsys):
    kept = run("paths", tmp_path, "--by", "attention", "--junctions", "blocks.1*", "--draws", "0")
    assert "by attention: all branches are of one group, other" in capsys.readouterr().out
    assert kept.query("quantity == 'participation'")["junction"].unique().tolist() == ["blocks.1:0"]


def test_curvature_is_curvature_study_read_out(tmp_path, capsys):
    problem = gs.Problem(small(), (DATA.train[0][:16], DATA.train[1][:16]))
    computed = gs.curvature_study(problem, k=2, probes=5, steps=8, seed=3, learning_rate=0.1)
    kept = run("curvature", tmp_path, "--k", "2", "--steps", "8", "--learning-rate", "0.1")
    told = capsys.readouterr().out
    assert_same(kept, computed[computed["quantity"] != "seconds"].reset_index(drop=True))
    assert "lambda_max" in told and "0.1" in told
    assert {path.name for path in tmp_path.glob("*.png")} == {"density.png", "condition_numbers.png"}


def test_curvature_of_some_parameters_by_blocks_and_minibatches(tmp_path, capsys):
    options = ["--parameters", "head,stem", "--by", "layer", "--couplings", "--minibatches", "4,8"]
    kept = run("curvature", tmp_path, "--k", "1", "--steps", "4", *options)
    assert {"coupling", "lambda_max"} <= set(kept.loc[kept["block"].notna(), "quantity"])
    assert set(kept["batch_size"].dropna()) >= {4, 8}
    drawn = {"density.png", "condition_numbers.png", "blocks.png", "minibatches.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == drawn
    heading, *lines = [line.split() for line in capsys.readouterr().out.split("quantity", 1)[1].splitlines()]
    assert heading[-5:] == ["batch_size", "value", "low", "high", "status"]
    told = [line for line in lines if line and line[0] in ("lambda_max", "lambda_max_ratio")]
    of_all, *blocks = told[: 1 + len(set(kept["block"].dropna()))]
    ratios = [line for line in told if line[0] == "lambda_max_ratio"]
    assert float(of_all[1]) == pytest.approx(
        kept.query("quantity == 'lambda_max'")["value"].iloc[0], rel=1e-4
    )
    assert {line[1] for line in blocks} == set(kept["block"].dropna())
    assert [line[1] for line in ratios] == ["4", "8"] and not any("..." in line for line in lines)


def test_curvature_with_momentum_has_its_limit(tmp_path, capsys):
    short = ["--k", "1", "--steps", "4", "--learning-rate", "0.1"]
    for nesterov, limit in (([], 3.8), (["--nesterov"], 3.8 / 2.8)):
        kept = run("curvature", tmp_path, *short, "--momentum", "0.9", *nesterov)
        assert kept.query("quantity == 'stability_limit'")["value"].item() == pytest.approx(limit)
    told = json.loads((tmp_path / "provenance.json").read_text())["configuration"]
    assert told["momentum"] == 0.9 and told["nesterov"]
    for options, why in (
        (["--momentum", "0.9"], "give that, too"),
        (["--learning-rate", "0.1", "--momentum", "1"], "below 1"),
        (["--learning-rate", "0.1", "--nesterov"], "such as 0.9"),
    ):
        capsys.readouterr()
        assert main(["curvature", "--model", SMALL, "--out", str(tmp_path / "x"), *options]) == 2
        assert why in capsys.readouterr().err


def test_lesions_is_lesion_study_after_calibration(tmp_path):
    model = small()
    with recalibrated(model, [DATA.train[0][:512]]):
        computed = gs.lesion_study(
            (model, IMAGES), sets=[1, 2], subsets=2, calibration=DATA.train[0][:512], seed=3
        )
    assert_same(run("lesions", tmp_path, "--sets", "1,2", "--subsets", "2"), computed)
    assert {path.name for path in tmp_path.glob("*.png")} == {"single.png", "sets.png", "groups.png"}


def test_lesions_by_several_metrics_and_greedily(tmp_path, capsys):
    options = ["--metric", "loss,kl", "--greedy", "2", "--sets", "spread", "--subsets", "1"]
    kept = run("lesions", tmp_path, *options)
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("lesion study: ") and "forward passes" in first
    assert {"loss", "kl", "loss_difference", "intact_kl"} <= set(kept["quantity"])
    assert set(kept["deleted"]) == {0, 1, 2, 3} and sum(kept["kind"] == "greedy") == 8
    drawn = {
        f"{name}{metric}.png" for name in ("single", "sets", "groups", "greedy") for metric in ("", "_kl")
    }
    assert {path.name for path in tmp_path.glob("*.png")} == drawn


@pytest.mark.parametrize("model", [SMALL, "vgg:depth=7,width=4"])
def test_a_dry_run_prints_the_cost_and_writes_nothing(tmp_path, capsys, model):
    asked = ["lesions", "--model", model, "--examples", "16", "--out", str(tmp_path / "out")]
    assert main([*asked, "--epochs", "1000000", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.split()[:6] == ["part", "statistics", "lesions", "passes", "branch_evaluations", "seconds"]
    assert "single" in printed and not list(tmp_path.rglob("*.csv"))


def test_in_a_plain_network_layers_are_replaced(tmp_path):
    kept = run("lesions", tmp_path, model="vgg:depth=7,width=4")
    assert set(kept["kind"]) == {"", "layer"} and "skipped" in set(kept["status"])
    model = gs.nets.build("vgg", depth=7, width=4, channels=1, seed=3)
    with recalibrated(model, [DATA.train[0][:512]]):
        assert_same(kept, layer_lesion_study((model, IMAGES), calibration=DATA.train[0][:512]))


def test_epochs_trains_first(tmp_path):
    model = small()
    gs.fit(model, DATA, epochs=1, seed=3)
    kept = run("shattering", tmp_path, "--epochs", "1")
    assert_same(kept[kept["study"] == "gradient_correlation"], gs.gradient_correlation((model, IMAGES)))


def test_weights_come_from_a_file(tmp_path):
    save_file(small(seed=7).state_dict(), tmp_path / "weights.safetensors")
    kept = run("shattering", tmp_path / "out", "--weights", str(tmp_path / "weights.safetensors"))
    kept = kept[kept["study"] == "gradient_correlation"]
    assert kept["value"].tolist() != gs.gradient_correlation((small(), IMAGES))["value"].tolist()
    assert_same(kept, gs.gradient_correlation((small(seed=7).eval(), IMAGES)))


@pytest.mark.parametrize("verb", ["shattering", "lesions", "paths", "curvature"])
def test_a_network_of_ones_own(tmp_path, factory, verb, capsys):
    options = {"curvature": ["--k", "1", "--steps", "4"], "lesions": ["--sets", "1"]}.get(verb, [])
    first = run(verb, tmp_path / "one", *options, model=factory)
    told = capsys.readouterr()
    assert "importing my_networks and calling residual()" in told.err
    heading = {"paths": "signed_share", "shattering": "correlation_R"}.get(verb, "value")
    assert told.out.splitlines()[-1] == str(tmp_path / "one") and heading in told.out
    # Its weights are drawn with every call: the seed fixes them, and leaves torch's generator alone.
    torch.manual_seed(5)
    second = run(verb, tmp_path / "two", *options, model=factory)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    other = run(verb, tmp_path / "three", *options, model=factory, seed=4)
    assert first["value"].tolist() != other["value"].tolist()
    names = {path.suffix for path in (tmp_path / "one").iterdir()}
    assert names == {".parquet", ".csv", ".json", ".png", ".svg"}


def test_what_is_kept_says_where_it_comes_from(tmp_path):
    kept = run("paths", tmp_path)
    assert set(kept["model"]) == {SMALL} and set(kept["seed"]) == {3}
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert facts["seeds"] == [3] and facts["configuration"]["model"] == SMALL
    assert facts["data"] == {"name": "digits", "sha256": DATA.sha256}
    assert str(tmp_path) not in json.dumps(facts)


def test_the_terminal_shows_the_values(tmp_path, capsys):
    kept = run("curvature", tmp_path, "--k", "1", "--steps", "4")
    told = capsys.readouterr().out
    assert f"{kept['value'][0]:.6f}" in told and "spectral_density" not in told


def test_a_checkpoint_of_fit_is_taken_for_weights(tmp_path):
    checkpoint = tmp_path / "small.safetensors"
    model = small()
    gs.fit(model, DATA, epochs=1, checkpoint=checkpoint)
    frame = run("paths", tmp_path / "out", "--draws", "0", "--weights", str(checkpoint))
    expected = gs.path_spectrum((model, IMAGES), draws=0)["value"]
    assert frame.query("study == 'path_spectrum'")["value"].tolist() == expected.tolist()


def test_by_default_every_model_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for model in (SMALL, "resnet:depth=8,width=2"):
        assert main(["paths", "--model", model, "--examples", "4", "--draws", "0"]) == 0
    folders = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert folders == ["paths-of-resnet-depth-8-width-2", "paths-of-resnet-depth-8-width-4"]


def test_figures_of_an_earlier_run_go_and_other_files_stay(tmp_path):
    run("lesions", tmp_path, "--metric", "error,kl", "--sets", "1,2", "--subsets", "2")
    (tmp_path / "mine.png").write_text("drawn by hand")
    assert (tmp_path / "sets_kl.svg").is_file()
    run("lesions", tmp_path)
    drawn = {path.name for path in tmp_path.iterdir() if path.suffix in (".png", ".svg")}
    assert drawn == {"single.png", "single.svg", "groups.png", "groups.svg", "mine.png"}
    (tmp_path / "provenance.json").write_text('{"pictures": ["../x.png", "mine.txt", 3]}')
    run("lesions", tmp_path)
    assert (tmp_path / "mine.png").is_file()


@pytest.mark.parametrize(
    ("verb", "typed", "told"),
    [
        (
            "lesions",
            ["--metric", "loss,kl", "--sets", "1,2", "--subsets", "3", "--greedy", "1"],
            {"metric": ["loss", "kl"], "sets": [1, 2], "subsets": 3, "greedy": 1, "layers": ""},
        ),
        ("lesions", ["--sets", "spread", "--subsets", "1"], {"metric": ["error"], "sets": "spread"}),
        ("shattering", ["--source", "loss"], {"source": "loss", "grams": False}),
        ("paths", ["--draws", "2"], {"draws": 2}),
        ("curvature", ["--k", "1", "--steps", "4"], {"k": 1, "steps": 4}),
    ],
)
def test_provenance_holds_the_verbs_options(tmp_path, verb, typed, told):
    run(verb, tmp_path, *typed)
    configuration = json.loads((tmp_path / "provenance.json").read_text())["configuration"]
    expected = {"verb": verb, "epochs": 0, "weights": None, "examples": 16} | told
    assert {name: configuration[name] for name in expected} == expected


def test_an_untrained_network_and_too_many_examples_are_told(tmp_path, factory, capsys):
    untrained, few = "untrained network: see --epochs and --weights.", "--examples 100000: there are"
    asked = ["paths", "--draws", "0", "--out", str(tmp_path / "out")]
    assert main([*asked, "--model", SMALL, "--examples", "100000"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert untrained in told and f"{few} {len(DATA.test[0])}, all of which are used." in told
    save_file(small().state_dict(), tmp_path / "weights.safetensors")
    for options in (
        ["--model", SMALL, "--weights", str(tmp_path / "weights.safetensors")],
        ["--model", SMALL, "--epochs", "1"],
        ["--model", factory],  # It may bring weights of its own.
    ):
        assert main([*asked, "--examples", "16", *options]) == 0
        told = capsys.readouterr().err
        assert untrained not in told and "all of which" not in told
