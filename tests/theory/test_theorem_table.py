"""The table of theorem values, digit for digit as it is printed."""

import math

import pytest

from gradscope.theory import theorem_table

# depth: plain [paper], residual [paper], batch norm beta = 1 [c = 1], beta = 0.3, beta = 0.1
PRINTED = {
    1: (".500 [.5]", ".750 [.75]", ".750 [.750]", ".959", ".995"),
    2: (".302 [.25]", ".582 [.563]", ".610 [.625]", ".921", ".990"),
    4: (".142 [.063]", ".375 [.316]", ".455 [.492]", ".856", ".981"),
    10: (".0337 [.00098]", ".140 [.056]", ".275 [.336]", ".711", ".953"),
    24: (".00546 [6e-8]", ".0328 [.001]", ".156 [.225]", ".523", ".895"),
    50: ("9.1e-4 [9e-16]", "6.8e-3 [6e-7]", ".0941 [.158]", ".365", ".807"),
    100: ("1.4e-4", "1.2e-3", ".0574 [.112]", ".242", ".684"),
}
COLUMNS = ["plain, uncentred", "residual, uncentred"] + [
    f"residual, batch norm, beta {beta:g}" for beta in (1.0, 0.3, 0.1)
]


def half_of_the_last_digit(text):
    mantissa, _, exponent = text.partition("e")
    return 0.5000001 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


@pytest.mark.parametrize("depth", PRINTED)
def test_every_printed_digit(depth):
    table = theorem_table()
    rows = table[(table["quantity"] == "correlation_R") & (table["depth"] == depth)].set_index(
        ["law", "kind"]
    )
    for law, text in zip(COLUMNS, PRINTED[depth], strict=True):
        exact, _, paper = text.rstrip("]").partition(" [")
        for kind, printed in (("exact", exact), ("published", paper)):
            if printed:
                value = rows.loc[(law, kind), "value"]
                assert value == pytest.approx(float(printed), abs=half_of_the_last_digit(printed))


def test_moments_are_those_of_the_theorems():
    table = theorem_table([1, 10], [0.1]).set_index(["law", "kind", "quantity", "depth"])["value"]
    three = "residual, batch norm, beta 0.1"
    assert table["residual, mean-centred", "published", "log_gradient_variance", 10] == 10 * math.log(2)
    assert table["residual, mean-centred", "exact", "log_gradient_covariance", 10] == pytest.approx(
        10 * math.log(1.5)
    )
    assert table["plain, mean-centred", "published", "log_gradient_covariance", 10] == -10 * math.log(2)
    assert table["plain, batch norm", "exact", "log_gradient_variance", 1] == pytest.approx(
        math.log(1.4669), abs=1e-4
    )
    assert table[three, "published", "log_gradient_variance", 10] == pytest.approx(math.log(1 + 0.01 * 9))
    assert table[three, "published", "gradient_covariance_asymptote", 10] == pytest.approx(
        0.1 * math.sqrt(10)
    )
    assert table[three, "published", "correlation_R_asymptote", 10] == pytest.approx(1 / 0.1 / math.sqrt(10))
    for law in ("highway, mean-centred", "highway, uncentred"):
        assert table[law, "published", "correlation_R", 10] == pytest.approx(0.95**10)


def test_correlations_are_the_ratios_of_their_moments():
    table = theorem_table().pivot_table(index=["law", "kind", "depth"], columns="quantity", values="value")
    table = table.dropna(subset=["log_gradient_covariance"])
    for row in table.itertuples():
        expected = math.exp(row.log_gradient_covariance - row.log_gradient_variance)
        assert row.correlation_R == pytest.approx(expected, rel=1e-9)


def test_the_frame_is_tidy():
    table = theorem_table([3, 5])
    assert list(table.columns) == ["law", "kind", "quantity", "unit", "depth", "value"]
    assert not table.duplicated(["law", "kind", "quantity", "depth"]).any()
    assert set(table["kind"]) == {"published", "exact"}
    assert table["value"].notna().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theorem_table([0]), "depth counts layers"),
        (lambda: theorem_table([[1, 2], [3, 4]]), "a list of whole numbers"),
        (lambda: theorem_table([3], [0.0]), "beta must be above 0"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_table_of_the_docstring():
    table = theorem_table([1, 10, 50]).query("quantity == 'correlation_R'")
    wide = table.pivot(index=["law", "kind"], columns="depth", values="value")
    assert (
        wide.columns.tolist() == [1, 10, 50]
        and len(wide) == table[["law", "kind"]].drop_duplicates().shape[0]
    )
    assert wide.loc[("plain, mean-centred", "exact"), 10] == pytest.approx(2.0**-10)
    assert set(theorem_table()["unit"]) == {"1"}
