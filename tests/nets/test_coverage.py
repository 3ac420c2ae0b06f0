"""No matrix is left over in silence: transposed layers are drawn, embeddings told, everything else named."""

import copy
import math

import pytest
import torch
from torch import nn

from gradscope.nets import build, initialise
from gradscope.studies.frames import where
from gradscope.studies.initialisation_study import initialisation_study


class Conv1D(nn.Module):
    """A linear layer as transformers write it: weight [in, out], `nf` outputs."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.full((nx, nf), 9.0))
        self.bias = nn.Parameter(torch.ones(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.nf)


class Speaker(nn.Module):
    """An embedding, two transposed layers, and a readout that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 40)
        self.up = Conv1D(160, 40)
        self.down = Conv1D(40, 160)
        self.readout = nn.Linear(40, 50, bias=False)
        self.readout.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(self.down(self.up(self.words(x)).relu()).mean(dim=1))


TOLD = "'readout' shares its weight with the embedding 'words'"


@pytest.mark.parametrize(("scheme", "options"), [("he", {}), ("xavier", {}), ("small", {"scale": 0.3})])
def test_a_transposed_layer_is_drawn_by_its_own_fans(scheme, options):
    model = Speaker().double()
    words = model.words.weight.detach().clone()
    with pytest.warns(UserWarning, match=TOLD):
        initialise(model, scheme, seed=0, **options)
    assert torch.equal(model.words.weight, words) and model.readout.weight is model.words.weight
    for layer, n_in, n_out in ((model.up, 40, 160), (model.down, 160, 40)):
        expected = {"he": math.sqrt(2 / n_in), "xavier": math.sqrt(2 / (n_in + n_out)), "small": 0.3}[scheme]
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.05)
        assert layer.weight.shape == (n_in, n_out) and not layer.bias.any()


def test_a_transposed_layer_gets_the_transposed_draw():
    transposed, usual = Conv1D(6, 4).double(), nn.Linear(4, 6).double()
    for scheme in ("orthogonal", "delta_orthogonal", "he"):
        initialise(transposed, scheme, seed=3)
        initialise(usual, scheme, seed=3)
        assert torch.equal(transposed.weight.T, usual.weight)
    state = torch.get_rng_state()
    initialise(transposed, "he", seed=3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("scheme", ["looks_linear", "looks_linear_relu", "fixup"])
def test_schemes_that_follow_layers_name_transposed_ones(scheme):
    model = nn.Sequential(Conv1D(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with pytest.raises(
        ValueError, match=f"'{scheme}' .* has no rule for 0.weight, which would stay as it is"
    ):
        initialise(model, scheme)
    assert bool((model[0].weight == 9).all())


def test_a_matrix_without_a_rule_is_named_before_anything_is_drawn():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "readout": nn.Linear(4, 2)})
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"no rule for attention.in_proj_weight, .*untouched="):
        initialise(model, "he")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for untouched in ("*.in_proj_weight", ["attention.in_proj_weight"], "*"):
        initialise(model, "he", seed=0, untouched=untouched)
        assert torch.equal(model["attention"].in_proj_weight, before["attention.in_proj_weight"])
        assert not torch.equal(model["readout"].weight, before["readout.weight"])
    with pytest.raises(ValueError, match=r"untouched names 'readout\.weight'"):
        initialise(model, "he", untouched="readout.weight")
    recurrent = nn.ModuleList([nn.LSTM(3, 3, num_layers=4), nn.Linear(3, 3)])
    with pytest.raises(ValueError, match=r"0\.weight_hh_l2 and 2 more, which would stay as they are"):
        initialise(recurrent, "he")


def test_nothing_but_an_embedding_is_nothing_to_draw():
    model = nn.ModuleList([nn.Embedding(5, 4), nn.Linear(4, 5)])
    model[1].weight = model[0].weight
    with pytest.warns(UserWarning, match="embedding '0'"), pytest.raises(ValueError, match="beside those"):
        initialise(model, "he")


def test_the_study_skips_what_it_cannot_draw_and_says_why():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Flatten(), nn.Bilinear(4, 4, 1)).double()
    model[3].forward = lambda x: nn.functional.bilinear(x, x, model[3].weight, model[3].bias)
    inputs = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    row = where(initialisation_study(model, inputs, ["he"], draws=2), scheme="he")
    assert row["status"].tolist() == ["skipped"] and "no rule for 3.weight" in row["reason"].item()
    assert row["batch_norm"].tolist() == ["frozen"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0])
def test_a_gain_or_scale_out_of_range_is_refused(number):
    for scheme, option in (("he", "gain"), ("small", "scale")):
        with pytest.raises(ValueError, match=f"{option} is a finite number of at least 0"):
            initialise(nn.Linear(2, 2), scheme, **{option: number})


def test_one_rectifier_for_several_layers_needs_examples():
    class Shared(nn.Module):
        def __init__(self, rectifier, width):
            super().__init__()
            self.first, self.rectifier = nn.Linear(8, 8), rectifier
            self.second, self.third = nn.Linear(width, 8), nn.Linear(width, 8)

        def forward(self, x):
            return self.third(self.rectifier(self.second(self.rectifier(self.first(x)))))

    inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    crelu = build("plain_mlp", depth=1, width=4, activation="crelu").blocks[0].activation
    for scheme, model in (
        ("looks_linear", Shared(crelu, 16)),
        ("looks_linear_relu", Shared(nn.ReLU(), 8)),
    ):
        with pytest.raises(ValueError, match="serve"):
            initialise(model, scheme, seed=0)
        initialise(model, scheme, seed=0, inputs=inputs)
