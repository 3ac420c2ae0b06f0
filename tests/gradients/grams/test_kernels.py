"""Grams from inputs and output gradients, against one example after the other by autograd, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradscope.gradients.grams import kernels
from gradscope.gradients.grams.kernels import convolution, embedding, linear, rows

EXAMPLES = 5


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def gram_one_by_one(parameter: Tensor, layer, *examples: Tensor) -> Tensor:
    """`layer(parameter, *one example)` is a list of (output, gradient there); explicit gradients, explicit products."""
    found = []
    for one in zip(*examples, strict=True):
        leaf = parameter.clone().requires_grad_()
        value = sum((output * gradient).sum() for output, gradient in layer(leaf, *one))
        found.append(torch.autograd.grad(value, leaf)[0])
    return torch.tensor([[float((a * b).sum()) for b in found] for a in found], dtype=torch.float64)


def agrees(gram: Tensor, expected: Tensor) -> None:
    assert gram.dtype == torch.float64
    assert torch.equal(gram, gram.T)
    torch.testing.assert_close(gram, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("examples", "columns"), [(1, 3), (5, 7), (50, 2100), (3, 2 * rows.COLUMNS + 5), (61, 1)]
)
def test_gram_of_rows_is_every_product(draw, examples, columns):
    matrix = draw(examples, columns)
    agrees(kernels.gram_of_rows(matrix), torch.stack([(matrix * row).sum(dim=1) for row in matrix]))


def test_gram_of_rows_does_not_mind_the_layout(draw):
    images = draw(4, 3, 5, 6)
    expected = kernels.gram_of_rows(images.flatten(start_dim=1))
    for other in (images, images.to(memory_format=torch.channels_last), images.transpose(1, 3)):
        agrees(kernels.gram_of_rows(other), expected)


@pytest.mark.parametrize("factor", [1e-37, 1e-30, 1e-15, 1.0, 1e15, 1e30])
def test_float32_grams_hold_at_any_scale(draw, factor):
    """1e-30 squared is 0 in float32. Compared as cosines, beside a row in range and a row of zeros."""
    x, g = draw(4, 3, 6).float(), draw(4, 3, 8).float() * factor
    g[1] /= factor
    g[2] = 0
    for gram_of in (
        lambda x, g: kernels.gram_of_rows(g),
        lambda x, g: kernels.linear_weight_gram(x, g)[0],
        lambda x, g: linear._in_range(linear._of_positions, x, g),
        lambda x, g: convolution_in_one_row([(x.transpose(1, 2), g.transpose(1, 2))]),
        lambda x, g: convolution_in_one_row([(x.transpose(1, 2), g.transpose(1, 2))] * 2),
        lambda x, g: kernels.embedding_gram(torch.tensor([[0, 1, 0]] * 4), g),
        lambda x, g: kernels.elementwise_gram(None, g, (8,)),
    ):
        found, expected = gram_of(x, g), gram_of(x.double(), g.double())
        assert torch.equal(found, found.T)
        norms = expected.diagonal().sqrt()
        torch.testing.assert_close(found.diagonal().sqrt(), norms, rtol=1e-5, atol=0)
        scale = torch.where(norms > 0, norms, 1)
        torch.testing.assert_close(
            found / scale / scale[:, None], expected / scale / scale[:, None], rtol=0, atol=1e-5
        )


def convolution_in_one_row(uses: list[tuple[Tensor, Tensor]]) -> Tensor:
    return kernels.convolution_weight_gram(uses, (8, 6, 1), (1,), (0,), (1,), 1)[0]


def test_half_precision_is_multiplied_in_float32(draw):
    x, g = draw(4, 3, 6).bfloat16(), draw(4, 3, 8).bfloat16()
    assert torch.equal(
        kernels.linear_weight_gram(x, g)[0], kernels.linear_weight_gram(x.float(), g.float())[0]
    )
    assert torch.equal(kernels.gram_of_rows(g), kernels.gram_of_rows(g.float()))


@pytest.mark.parametrize(
    ("positions", "din", "dout", "engine"),
    [
        (1, 4, 3, "products"),
        (2, 12, 10, "products"),
        (4, 6, 3, "per-example gradients"),
        (4, 3, 6, "per-example gradients"),
    ],
)
@pytest.mark.parametrize("block", [10, 2**20])
def test_linear_weight(draw, monkeypatch, positions, din, dout, engine, block):
    monkeypatch.setattr(linear, "BLOCK", block)
    x, g = draw(EXAMPLES, positions, din), draw(EXAMPLES, positions, dout)
    gram, how = kernels.linear_weight_gram(x, g)
    assert how == engine
    agrees(gram, gram_one_by_one(draw(dout, din), lambda w, x, g: [(F.linear(x, w), g)], x, g))


def test_linear_factors_multiply_to_the_gram_of_the_weight(draw):
    x, g = draw(EXAMPLES, 4), draw(EXAMPLES, 3)
    forward, backward = kernels.linear_factors(x, g)
    agrees(forward * backward, gram_one_by_one(draw(3, 4), lambda w, x, g: [(F.linear(x, w), g)], x, g))
    agrees(forward, x @ x.T)


def test_bias_at_every_position(draw):
    g = draw(EXAMPLES, 4, 3)
    agrees(kernels.summed_gram(g), gram_one_by_one(draw(3), lambda b, g: [(b.expand(4, 3), g)], g))


CONVOLUTIONS = {
    "plain": dict(channels=(3, 4), kernel=(3, 3)),
    "more in than out": dict(channels=(6, 2), kernel=(3, 3)),
    "padding": dict(channels=(3, 4), kernel=(3, 3), padding=(1, 2)),
    "stride": dict(channels=(3, 4), kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    "stride down": dict(channels=(3, 4), kernel=(3, 2), stride=(2, 1)),
    "stride across": dict(channels=(3, 4), kernel=(2, 3), stride=(1, 3)),
    "stride past the end": dict(channels=(2, 3), kernel=(2, 2), stride=(3, 3)),
    "dilation": dict(channels=(3, 4), kernel=(3, 2), dilation=(2, 3), padding=(2, 1)),
    "dilation and stride": dict(channels=(3, 4), kernel=(3, 3), dilation=(2, 1), stride=(2, 2), padding=(2, 2)),
    "groups": dict(channels=(6, 4), kernel=(3, 3), groups=2, padding=(1, 1)),
    "depthwise": dict(channels=(4, 4), kernel=(3, 3), groups=4, padding=(1, 1)),
    "depthwise, stride, twice as many out": dict(channels=(4, 8), kernel=(3, 3), groups=4, stride=(2, 2)),
    "pointwise": dict(channels=(5, 4), kernel=(1, 1)),
    "pointwise, stride": dict(channels=(5, 4), kernel=(1, 1), stride=(2, 2)),
    "one position": dict(channels=(3, 8), kernel=(7, 8)),
    "one dimension": dict(channels=(3, 4), kernel=(3,), padding=(1,)),
    "one dimension, everything": dict(
        channels=(4, 6), kernel=(3,), padding=(2,), stride=(2,), dilation=(2,), groups=2
    ),
}  # fmt: skip


@pytest.mark.parametrize("block", [10, 700, 2**20])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(draw, monkeypatch, case, calls, block):
    """Every option, one or two calls at different sizes, channels first and last, by blocks of any size."""
    monkeypatch.setattr(convolution, "BLOCK", block)
    monkeypatch.setattr(convolution, "COLUMNS", block)
    options = dict(CONVOLUTIONS[case])
    (channels, outputs), kernel = options.pop("channels"), options.pop("kernel")
    ones = (1,) * len(kernel)
    options = {"stride": ones, "padding": (0,) * len(kernel), "dilation": ones, "groups": 1} | options
    convolve = F.conv2d if len(kernel) == 2 else F.conv1d
    weight = draw(outputs, channels // options["groups"], *kernel)
    uses = []
    for call in range(calls):
        x = draw(EXAMPLES, channels, *((7, 8)[-len(kernel) :] if call == 0 else (9, 9)[: len(kernel)]))
        g = draw(*convolve(x, weight, None, **options).shape)
        if len(kernel) == 2 and call == 0:
            x = x.to(memory_format=torch.channels_last)
        uses.append((x, g))

    def layer(weight, *flat):
        return [
            (convolve(x[None], weight, None, **options)[0], g)
            for x, g in zip(flat[::2], flat[1::2], strict=True)
        ]

    gram, how = kernels.convolution_weight_gram(uses, weight.shape, **options)
    assert how == ("products" if case == "one position" and calls == 1 else "per-example gradients")
    agrees(gram, gram_one_by_one(weight, layer, *[tensor for use in uses for tensor in use]))


def test_a_convolution_leaves_what_it_is_given_alone(draw):
    x, g = draw(3, 4, 6, 6), draw(3, 5, 6, 6)
    kept = x.clone(), g.clone()
    kernels.convolution_weight_gram([(x, g)], (5, 4, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    assert torch.equal(x, kept[0]) and torch.equal(g, kept[1])


@pytest.mark.parametrize("block", [1, 2**20])
@pytest.mark.parametrize("padding_idx", [None, 1])
@pytest.mark.parametrize("table", [3, 40, 10**6])
def test_embedding(draw, monkeypatch, table, padding_idx, block):
    """Rows that all examples share, rows of few, and a table that no memory held one gradient of."""
    monkeypatch.setattr(embedding, "BLOCK", block)
    examples, width = 9, 2
    small = torch.randint(min(table, 40), (examples, 6), generator=torch.Generator().manual_seed(1))
    indices = small * (table // 40) if table > 40 else small
    indices[indices == indices[0, 0]] = 1
    g = draw(examples, 6, width)

    def layer(weight, one, g):
        names = {int(index): place for place, index in enumerate(indices.unique())}
        own = torch.tensor([names[int(index)] for index in one])
        return [(weight[own], g if padding_idx is None else g * (one != padding_idx)[:, None])]

    expected = gram_one_by_one(draw(len(indices.unique()), width), layer, indices, g)
    agrees(kernels.embedding_gram(indices, g, padding_idx), expected)


def test_an_embedding_of_positions_is_the_gram_of_all_gradients(draw):
    g = draw(EXAMPLES, 4, 3)
    positions = torch.arange(4).expand(EXAMPLES, 4)
    agrees(kernels.embedding_gram(positions, g), kernels.gram_of_rows(g))


def test_an_embedding_of_nothing_but_padding_has_no_gradient(draw):
    indices = torch.ones(EXAMPLES, 4, dtype=torch.long)
    agrees(
        kernels.embedding_gram(indices, draw(EXAMPLES, 4, 3), padding_idx=1),
        torch.zeros(EXAMPLES, EXAMPLES).double(),
    )


@pytest.mark.parametrize(
    ("example", "shape"),
    [
        ((4, 3), (3,)),
        ((3, 4, 5), (3, 1, 1)),
        ((4, 3), (1,)),
        ((4, 3), (4, 3)),
        ((3,), (3,)),
        ((1, 3), (1, 3)),
    ],
)
def test_elementwise(draw, example, shape):
    x, g = draw(EXAMPLES, *example), draw(EXAMPLES, *example)
    scale = gram_one_by_one(draw(*shape), lambda w, x, g: [(w * x, g)], x, g)
    shift = gram_one_by_one(draw(*shape), lambda w, x, g: [(w + x, g)], x, g)
    agrees(kernels.elementwise_gram(x, g, shape), scale)
    agrees(kernels.elementwise_gram(None, g, shape), shift)


@pytest.mark.parametrize("shape", [(2,), (5, 4, 3), (3, 1)])
def test_a_parameter_that_does_not_fit_is_refused(draw, shape):
    with pytest.raises(ValueError, match="ones where it is repeated"):
        kernels.elementwise_gram(None, draw(EXAMPLES, 4, 3), shape)


def test_layer_norm_batch_norm_and_group_norm_are_elementwise(draw):
    """The weight of a norm multiplies what was normalised, whatever was normalised over."""
    images, g = draw(EXAMPLES, 4, 3, 3), draw(EXAMPLES, 4, 3, 3)
    normalised = F.group_norm(images, 2)
    expected = gram_one_by_one(draw(4), lambda w, x, g: [(F.group_norm(x[None], 2, w)[0], g)], images, g)
    agrees(kernels.elementwise_gram(normalised, g, (4, 1, 1)), expected)
    words, slopes = draw(EXAMPLES, 4, 6), draw(EXAMPLES, 4, 6)
    expected = gram_one_by_one(draw(6), lambda w, x, g: [(F.layer_norm(x, (6,), w), g)], words, slopes)
    agrees(kernels.elementwise_gram(F.layer_norm(words, (6,)), slopes, (6,)), expected)
    norm = nn.BatchNorm2d(4, dtype=torch.float64).eval()
    norm.running_mean.fill_(0.3), norm.running_var.fill_(math.pi)
    expected = gram_one_by_one(
        draw(4),
        lambda w, x, g: [(F.batch_norm(x[None], norm.running_mean, norm.running_var, w)[0], g)],
        images, g,
    )  # fmt: skip
    agrees(kernels.elementwise_gram((images - 0.3) / math.sqrt(math.pi + norm.eps), g, (4, 1, 1)), expected)
