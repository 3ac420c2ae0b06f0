"""Path counts against the generating functions of the literature and against theory."""

import math
from itertools import zip_longest

import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import NETWORKS, EncoderDecoder, Residual, mlp, stack
from torch import nn

from gradscope.gradients.live import open_paths
from gradscope.instruments.junctions import junctions
from gradscope.problem import Problem
from gradscope.studies.path_counts import path_counts
from gradscope.theory import binomial_path_counts
from gradscope.theory import path_counts as product


def of(frame, quantity):
    return frame[frame["quantity"] == quantity]["value"].tolist()


def counts(name, **options):
    specimen = NETWORKS[name]
    return of(path_counts(specimen.build(), specimen.inputs(), **options), "path_count")


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("plain", []),
        ("post-activation", [[1, 1]] * 6),
        ("pre-norm transformer", [[1, 1]] * 6),
        ("parallel transformer", [[1, 2]] * 3),
        ("multi-residual", [[1, 2]] * 3),
        ("highway", [[1, 1]] * 4),
        ("shared weights", [[1, 1]] * 4),
        ("padding", [[1, 1]] * 2),
        ("dense", [[1, 1]] * 3),
        ("dense list", [[1, 1]] * 3),
        ("shuffle", [[1, 1]] * 2),
        ("side by side", []),
        # The long skip, and beside it what the bottom and the inner long skip give.
        ("U-Net", [[1, 2, 1]]),
        # Every way from the input enters a stream that begins at a learned value: by the first branch or the second.
        ("learned query", [[0, 2, 1]]),
    ],
)
def test_counts_are_the_products_of_the_blocks_polynomials(name, blocks):
    assert counts(name) == product(blocks)


def test_which_junctions_count_is_the_users_to_say():
    def inner(junction):
        return ".blocks" in junction.name

    assert counts("long skip") == product([[1, 1]] * 2)
    # The residual network of residual networks: 1 + (1 + t)^2 around two blocks, twice.
    assert counts("long skip", junctions=inner) == product([[2, 2, 1]] * 2)
    assert counts("long skip", junctions="*") == product([[1, 1, 2, 1]] * 2)
    found = junctions(NETWORKS["long skip"].build(), NETWORKS["long skip"].inputs())
    assert counts("long skip", junctions=found[2]) == [1, 1]
    assert counts("long skip", junctions=[found[2], found[5]]) == [1, 2, 1]
    assert counts("U-Net", junctions="*") == [1, 1, 1, 1]
    with pytest.raises(ValueError, match=r"No junction matches 'x\*'"):
        counts("long skip", junctions="x*")


def test_a_decoder_adds_the_paths_into_the_encoder():
    model = EncoderDecoder().double()
    problem = Problem(
        model,
        {"source": torch.randn(3, 5, 4), "target": torch.randn(3, 2, 4)},
        forward=lambda model, given: model((given["source"], given["target"])),
    )
    # On the way into a decoder layer d paths, from the encoder e = (1 + t)^4: attention to itself gives (1 + t) d,
    # that to the encoder (1 + t)^2 d + t e, the MLP (1 + t) times all of it. The target is another input: d = 0.
    encoder, decoder = product([[1, 1]] * 4), [0] * 6
    for _ in range(2):
        joined = [a + b for a, b in zip_longest(product([[1, 2, 1], decoder]), [0, *encoder], fillvalue=0)]
        decoder = product([[1, 1], joined])
    frame = path_counts(problem)
    assert decoder[0] == 0
    assert of(frame, "path_count") == decoder[: max(k for k, count in enumerate(decoder) if count) + 1]
    first = frame[(frame["quantity"] == "path_count_log10") & (frame["path_length"] == 0)].iloc[0]
    assert math.isnan(first["value"]) and first["status"] == "undefined" and "this length" in first["reason"]


def test_blocks_that_join_without_a_skip_are_one_function():
    class Fractal(nn.Module):
        def __init__(self):
            super().__init__()
            self.short, self.first, self.second = (mlp(4, 3, 4) for _ in range(3))

        def forward(self, x):
            return (self.short(x) + self.second(self.first(x).tanh())) / 2

    assert of(path_counts(stack(Fractal, 2), torch.randn(2, 4)), "path_count") == [1]


class PastTheTrunk(nn.Module):
    """Three blocks, and a second head that looks past them: their outputs are added, and neither is a skip."""

    def __init__(self, block=Residual):
        super().__init__()
        self.first, self.trunk = nn.Linear(4, 4), nn.Sequential(*[block(mlp(4, 4, 4)) for _ in range(3)])
        self.head, self.aside = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        h = self.first(x)
        return self.head(self.trunk(h)) + self.aside(h.sin())


class TwoSkips(Residual):
    def forward(self, x):
        return x + x.sin() + self.branch(x)


@pytest.mark.parametrize("block", [Residual, TwoSkips])
def test_blocks_that_a_sum_without_a_skip_encloses_are_counted(block):
    model, x = PastTheTrunk(block), torch.randn(2, 4)
    one, *others = product([[1, 1]] * 3)
    assert of(path_counts(model, x), "path_count") == [one + 1, *others]
    # What a network's own gradient is split into by default is what is counted by default.
    with open_paths((model, (x, torch.tensor([0, 1])))) as paths:
        assert [junction.name for junction in paths.junctions] == ["trunk.0:0", "trunk.1:0", "trunk.2:0"]
        split = paths.graded().gradients
        assert len(split) == 4
        torch.testing.assert_close(split.sum(dim=0), paths.backward(), rtol=1e-5, atol=1e-7)


def test_a_choice_of_nothing_says_what_there_is_to_choose():
    with pytest.raises(ValueError, match=r"chooses none of .*: trunk\.0:0, trunk\.1:0, trunk\.2:0\."):
        path_counts(PastTheTrunk(), torch.randn(2, 4), junctions=lambda junction: junction.level > 5)


def test_a_thousand_blocks_are_counted_exactly():
    blocks = 1100
    model = nn.Sequential(*[Residual(nn.Linear(2, 2)) for _ in range(blocks)])
    frame = path_counts(model, torch.randn(2, 2))
    exact = binomial_path_counts(blocks)
    logs, shares = of(frame, "path_count_log10"), of(frame, "path_count_share")
    assert logs == [math.log10(count) for count in exact]
    assert shares == [count / 2**blocks for count in exact]
    middle = frame[(frame["quantity"] == "path_count") & (frame["path_length"] == 550)].iloc[0]
    assert math.isnan(middle["value"]) and middle["status"] == "undefined" and "log10" in middle["reason"]
    assert of(frame, "path_count_mean") == [550] and of(frame, "path_count_variance") == [275]


def test_the_frame_is_tidy_and_the_model_as_found():
    specimen = NETWORKS["U-Net"]
    model = specimen.build()
    before = snapshot(model)
    frame = path_counts((model, specimen.inputs()))
    assert_as_found(model, before)
    assert list(frame.columns) == [
        *("quantity", "unit", "path_length", "value", "low", "high", "n", "status", "reason")
    ]
    assert of(frame, "path_count_share") == [0.25, 0.5, 0.25]
    assert of(frame, "path_count_mean") == [1] and of(frame, "path_count_variance") == [0.5]
    # Both ways through the deeper part that pass the bottom by its skip cross the same branch.
    assert of(frame, "paths_told_apart") == [0]
    assert set(frame["status"]) == {"ok"}
    summaries = frame[frame["path_length"].isna()]
    assert set(summaries["quantity"]) == {"path_count_mean", "path_count_variance", "paths_told_apart"}


def test_data_beside_a_problem_are_refused():
    specimen = NETWORKS["dense"]
    problem = Problem(specimen.build(), specimen.inputs())
    with pytest.raises(ValueError, match=r"takes a model .* got Problem"):
        path_counts(problem, specimen.inputs())
