"""Claims are data: read strictly, so that a misspelt bound cannot become no bound."""

import pytest

from gradscope.report import Criterion, claim, load_claims

GOOD = """
[[claims]]
id = "S1"
part = "plain"
source = "Balduzzi et al. 2017"
claim = "halves per layer"
prediction = "slope -1"
statistic = "slope"
criterion = { kind = "between", low = -1.1, high = -0.9 }
margin = "10 %"
by = ["A", "D"]

[[claims]]
id = "S1"
part = "residual"
source = "Balduzzi et al. 2017"
claim = "(3/4)^L"
prediction = "slope -0.415"
statistic = "slope"
criterion = { kind = "at_least", low = -0.45 }

[[claims]]
id = "V1"
source = "Veit et al. 2016"
claim = "binomial"
prediction = "0.980"
statistic = "mass"
criterion = { kind = "exact", target = 0.980, tolerance = 5e-4, least_seeds = 1 }
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "claims.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_rows_become_claims(written):
    first, second, third = load_claims(written(GOOD))
    assert (first.id, first.part, first.by) == ("S1", "plain", ("A", "D"))
    assert first.criterion == Criterion("between", low=-1.1, high=-0.9)
    assert second.margin == "" and second.by == ()
    assert third.criterion.least_seeds == 1 and third.part == ""


def test_a_claim_is_found_by_id_and_part(written):
    path = written(GOOD)
    assert claim("S1", "residual", path).claim == "(3/4)^L"
    assert claim("V1", path=path).statistic == "mass"
    with pytest.raises(ValueError, match="2 parts"):
        claim("S1", path=path)
    with pytest.raises(ValueError, match="its parts are"):
        claim("S1", "highway", path)
    with pytest.raises(ValueError, match=r"there are \['S1', 'V1'\]"):
        claim("S9", path=path)


def test_the_claims_that_come_with_the_package_are_read():
    assert load_claims()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("margin =", "margni =", "Did you mean 'margin'"),
        ('claim = "halves per layer"', "", r"claim 1 \(S1\) lacks \['claim'\]"),
        ('"between"', '"betwen"', "Did you mean 'between'"),
        ("low = -1.1, ", "", r"missing \['low'\]"),
        ('"at_least", low = -0.45', '"at_least", low = 0, high = 1', r"surplus \['high'\]"),
        ("low = -1.1,", "lwo = -1.1,", "Did you mean 'low'"),
        ("low = -1.1,", 'low = "-1.1",', "finite number"),
        ("low = -1.1,", "low = nan,", "finite number"),
        ("low = -1.1,", "low = 3,", "lies above"),
        ("5e-4", "-1", "tolerance is >= 0"),
        ('part = "residual"', 'part = "plain"', "there twice"),
        ('by = ["A", "D"]', 'by = "A, D"', "list of texts"),
        ('claim = "halves per layer"', "claim = 3", "claim is to be text"),
        ("[[claims]]", "[[claim]]", "unknown key 'claim'"),
        ('id = "V1"', "id = V1", "is not TOML"),
        ("least_seeds = 1", "least_seeds = 0", "least_seeds a whole number"),
    ],
)
def test_a_mistake_is_named(written, old, new, said):
    with pytest.raises(ValueError, match=said):
        load_claims(written(GOOD.replace(old, new)))
