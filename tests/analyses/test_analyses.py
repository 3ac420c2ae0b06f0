"""Every analysis judges its claims, says what it shows, and gives the same numbers however it is run."""

import io
from pathlib import Path

import pandas as pd
import pytest
from tiny_reports import ANALYSES, first_run, tiny, tiny_analyses

from gradscope.report import Section, load_claims, render
from gradscope.studies import sweep as sweep_module

OWED = {
    "shattering": {"S1", "S2", "S3", "S4", "S5", "S7", "S10", "S13", "S14", "S15"},
    "traces": {"S6", "S8"},
    "effective_rank": {"S9"},
    "looks_linear": {"S11", "S12"},
    "lesions": {"V2", "V3", "V10"},
    "reordering": {"V4", "G3"},
    "refinement": {"G1", "G2", "G4", "G5", "G6", "G7"},
    "paths": {"V1", "V5", "V6", "V11"},
    "effective_paths": {"V7", "V8", "V9", "V14", "V15"},
    "ensemble_depth": {"V12", "V13"},
    "conditioning": {"H1", "H2", "H3", "H4", "H5", "H7"},
    "stability": {"H6", "H9"},
    "smoothness": {"H8"},
}
STATES = {"ok", "unconverged", "undefined", "skipped"}
every_analysis = pytest.mark.parametrize("name", ANALYSES)


@pytest.fixture
def sections() -> dict[str, Section]:
    return first_run()[1]


def rows_of(section: Section) -> list[tuple[str, str]]:
    return list(zip(section.verdicts["claim_id"], section.verdicts["part"], strict=True))


def contents(section: Section) -> dict[str, bytes]:
    """Every table as Parquet, the verdicts among them."""
    kept = {}
    for name, frame in {**section.tables, "verdicts": section.verdicts}.items():
        buffer = io.BytesIO()
        frame.to_parquet(buffer)
        kept[name] = buffer.getvalue()
    return kept


def run(name: str, out: Path) -> Section:
    with tiny_analyses():
        return ANALYSES[name].main(tiny(out))


@every_analysis
def test_each_analysis_judges_the_claims_it_owes(sections, name):
    assert set(sections[name].verdicts["claim_id"]) == OWED[name] and sections[name].name == name


def test_the_claims_of_this_piece_of_work_are_judged_once_each(sections):
    judged = [row for section in sections.values() for row in rows_of(section)]
    owed = [(claim.id, claim.part) for claim in load_claims() if {"A", "B", "C", "D", "E"} & set(claim.by)]
    assert sorted(judged) == sorted(owed)


def test_two_seeds_decide_nothing_but_a_count(sections):
    verdicts = pd.concat(section.verdicts for section in sections.values())
    least = {(claim.id, claim.part): claim.criterion.least_seeds for claim in load_claims()}
    for row in verdicts.to_dict("records"):
        if least[row["claim_id"], row["part"]] == 1:
            assert row["verdict"] == "holds" and row["n"] == 1
        else:
            assert row["n"] == 2, f"{row['claim_id']} {row['part']}: one value a seed"
            assert row["verdict"] == "undecided" and "2 of at least 5 seeds" in row["reason"]


@every_analysis
def test_a_section_can_be_read_without_its_author(sections, name):
    section = sections[name]
    assert section.question.endswith("?") and section.title.endswith("?")
    assert len(section.reading.split("\n\n")) >= 2 and section.pictures
    assert (section.verdicts["settings"].str.len() > 10).all()
    for picture in section.pictures:
        assert picture.caption.rstrip().endswith(".") and len(picture.alternative) > 40


@every_analysis
def test_every_picture_names_its_axes_with_units(sections, name):
    for picture in sections[name].pictures:
        figure, axes = picture.figure, picture.figure.axes
        across = [axis.get_xlabel() for axis in axes]
        up = [axis.get_ylabel() for axis in axes] + [figure.get_supylabel()]
        for labels in (across, up):
            assert any("(" in label and ")" in label for label in labels), (picture.name, labels)


@every_analysis
def test_tables_are_tidy(sections, name):
    for key, frame in sections[name].tables.items():
        columns = list(frame.columns)
        assert len(frame) and list(frame.index) == sorted(set(frame.index)), key
        assert len(set(columns)) == len(columns) and {"quantity", "unit", "value"} <= set(columns), key
        # Theory has no seeds.
        expected = {"theorems": "law"}.get(key, "seed")
        assert expected in columns[: columns.index("quantity")], f"{key}: conditions come first"
        assert pd.api.types.is_float_dtype(frame["value"]) and frame["unit"].notna().all(), key
        # Equal eigenvalues of a spectrum are equal rows.
        assert key == "spectra" or not frame.duplicated().any(), key
        lost = frame[frame["value"].isna()]
        if len(lost):
            assert (lost["status"] != "ok").all() and (lost["reason"].str.len() > 0).all(), key
        assert set(frame.get("status", pd.Series(dtype=str))) <= STATES, key


@every_analysis
def test_a_second_call_computes_nothing_and_gives_the_same_bytes(sections, name, monkeypatch):
    def computing(study, condition, *_):
        raise AssertionError(f"{study.__name__} was called again for {condition}")

    monkeypatch.setattr(sweep_module, "_cell", computing)
    assert contents(run(name, Path(first_run()[0].name))) == contents(sections[name])


@every_analysis
def test_computed_anew_the_bytes_are_the_same(sections, name, tmp_path):
    assert contents(run(name, tmp_path)) == contents(sections[name])


def test_networks_are_trained_once_for_all_analyses(sections):
    kept = sorted(path.name for path in (Path(first_run()[0].name) / ".cache" / "networks").iterdir())
    # ResNet-14 in three ways and with two branches a block, ResNet-8 with one and with two; both kinds of eight layers
    # once more at another rate, with batch normalisation and without.
    ways = {"resnet-14": 4, "resnet-8": 4, "plain-8": 3}
    # Six kinds of networks at two depths, for each seed.
    straight = [name for name in kept if name.startswith("looks-linear")]
    assert len(straight) == 6 * 2 * 2
    assert [name.rsplit("-", 1)[0] for name in kept if name not in straight] == [
        f"{family}-{seed}"
        for family in ("plain-8", "resnet-14", "resnet-20", "resnet-26", "resnet-8", "vgg-10", "vgg-7")
        for seed in (0, 1)
        for _ in range(ways.get(family, 1))
    ]


def test_other_seeds_give_other_numbers_and_keep_the_first(sections, tmp_path):
    with tiny_analyses():
        more = ANALYSES["paths"].main(tiny(tmp_path, seeds=(1, 2)))
    shared = [
        table[table["seed"] == 1] for table in (more.tables["paths"], sections["paths"].tables["paths"])
    ]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in shared), check_exact=True)
    assert set(more.tables["paths"]["seed"]) == {1, 2}


@every_analysis
def test_a_preset_that_is_not_there_is_no_traceback(name, capsys, monkeypatch, tmp_path):
    from gradscope.cli.analysis import run as run_script

    monkeypatch.setattr("sys.argv", [name, "--preset", "huge", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as leaving:
        run_script(ANALYSES[name].main, ANALYSES[name].PRESETS)
    assert leaving.value.code == 2 and not (tmp_path / "out").exists()
    assert capsys.readouterr().err == "error: preset is one of quick, standard, got 'huge'.\n"


def test_as_a_script_an_analysis_writes_its_page_and_prints_its_verdicts(monkeypatch, capsys, tmp_path):
    from gradscope.cli.analysis import run as run_script

    asked = ["--preset", "tiny", "--seeds", "2", "--workers", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["paths", *asked])
    with tiny_analyses(), pytest.raises(SystemExit) as leaving:
        run_script(ANALYSES["paths"].main, ANALYSES["paths"].PRESETS)
    assert leaving.value.code == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "How long are the paths?" and told[-1] == str(tmp_path / "paths" / "index.html")
    assert (
        any(line.split()[:2] == ["holds", "V1"] for line in told)
        and (tmp_path / "paths" / "report.md").is_file()
    )


def test_sections_can_be_rendered_one_by_one(sections, tmp_path):
    index = render(tmp_path, sections["lesions"].title, [sections["lesions"]], {})
    assert index.read_text().count("<figure") == len(sections["lesions"].pictures)
