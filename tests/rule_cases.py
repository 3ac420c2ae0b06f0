"""Tiny networks around one operation each, as data: what the rules of the R-operator are tested on."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradscope.problem import Problem


class Around(nn.Module):
    """A linear layer, the operation on what it made, seen in some shape, tanh and a linear head.

    So the operation meets tangents from below and curvature from above.
    """

    def __init__(
        self, operation: Callable[..., Tensor], shape: tuple[int, ...], *weights: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.shape = shape
        self.operation = operation
        self.below = nn.Linear(3, int(torch.Size(shape).numel()))
        self.weights = nn.ParameterList(torch.randn(size) for size in weights)
        self.double()
        made = self.operated(torch.randn(2, 3, dtype=torch.float64))
        self.head = nn.Linear(made[0].numel(), 3).double()

    def operated(self, x: Tensor) -> Tensor:
        return self.operation(self.below(x).view(len(x), *self.shape), *self.weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.operated(x).flatten(1)))


def around(
    operation: Callable[..., Tensor], shape: tuple[int, ...] = (4,), *weights: tuple[int, ...]
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Around(operation, shape, *weights)


def problem_of(net: nn.Module, loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy") -> Problem:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return Problem(net, (inputs, torch.randint(0, 3, (5,), generator=generator)), loss)


def positive(x: Tensor) -> Tensor:
    return x * x + 0.5


IMAGE = (2, 4, 4)
INDEX = torch.tensor([2, 0, 2])
EYE = torch.eye(4, dtype=torch.float64)
FIXED = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([1.5, 0.7], dtype=torch.float64)

# What is done, the shape in which it meets each example, and the shapes of weights of its own.
OPERATIONS: dict[str, tuple[Callable[..., Tensor], *tuple[tuple[int, ...], ...]]] = {
    # sums and products
    "add with a factor": (lambda x, w: torch.add(x, w, alpha=0.5), (4,), (4,)),
    "add a broadcast example": (lambda x: x + x[:1] * 2, (4,)),
    "add a number": (lambda x: x + 1, (4,)),
    "subtract": (lambda x, w: w - x.sin() * w, (4,), (4,)),
    "subtract from a number": (lambda x: 3 - x, (4,)),
    "rsub": (lambda x, w: torch.rsub(x, w, alpha=2), (4,), (4,)),
    "multiply": (lambda x, w: x * w * x.flip(1), (4,), (1,)),
    "multiply by a constant": (lambda x: 2 * x, (4,)),
    "divide": (lambda x, w: (x * w) / positive(x.roll(1, 1)), (4,), (4,)),
    "divide a constant": (lambda x: 3 / positive(x), (4,)),
    "divide by a constant": (lambda x: x / 3, (4,)),
    "where": (lambda x, w: torch.where(x > 0, x * x, w * x), (4,), (4,)),
    "masked fill": (lambda x: x.masked_fill(x > 0.2, 0.0), (4,)),
    "masked fill with a weight": (lambda x, w: (x * x).masked_fill(x > 0.2, w[0]), (4,), (1,)),
    "maximum": (lambda x, w: torch.maximum(x * x, w * x), (4,), (4,)),
    "minimum": (lambda x, w: torch.minimum(x * x, w * x), (4,), (4,)),
    # functions of one number
    "relu": (lambda x: x * F.relu(x), (4,)),
    "relu in place": (lambda x: F.relu(x * 1, inplace=True), (4,)),
    "threshold": (lambda x: x * F.threshold(x, 0.1, 0.0), (4,)),
    "leaky relu": (lambda x: x * F.leaky_relu(x, 0.3), (4,)),
    "leaky relu in place": (lambda x: x * F.leaky_relu(x * 1, 0.3, inplace=True), (4,)),
    "hardtanh in place": (lambda x: x * F.relu6(x * 1, inplace=True), (4,)),
    "elu": (lambda x: F.elu(x, 0.7), (4,)),
    "elu in place": (lambda x: F.elu(x * 1, 0.7, inplace=True), (4,)),
    "selu": (lambda x: F.selu(x), (4,)),
    "gelu": (lambda x: F.gelu(x), (4,)),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), (4,)),
    "silu": (lambda x: F.silu(x), (4,)),
    "mish": (lambda x: F.mish(x), (4,)),
    "softplus": (lambda x: F.softplus(x, beta=2), (4,)),
    "hardtanh": (lambda x: x * F.hardtanh(x, -0.3, 0.4), (4,)),
    "hardswish": (lambda x: F.hardswish(x), (4,)),
    "log sigmoid": (lambda x: F.logsigmoid(x), (4,)),
    "clamp": (lambda x: x * x.clamp(-0.3, 0.4) * x.clamp(min=0), (4,)),
    "clamp from below": (lambda x: x * x.clamp_min(-0.1), (4,)),
    "clamp from above": (lambda x: x * x.clamp_max(0.1), (4,)),
    "power": (lambda x: positive(x) ** 1.5 + x**3 + x.square(), (4,)),
    "logarithm": (lambda x: positive(x).log() + positive(x).log1p(), (4,)),
    "sine and cosine": (lambda x: x.sin() * x.cos(), (4,)),
    "absolute value": (lambda x: x * x.abs(), (4,)),
    "error function": (lambda x: torch.erf(x), (4,)),
    "sigmoid": (lambda x: torch.sigmoid(x), (4,)),
    "exponential": (lambda x: x.exp() + x.expm1() * x, (4,)),
    "roots": (lambda x: positive(x).sqrt() + positive(x).rsqrt(), (4,)),
    "reciprocal": (lambda x: positive(x).reciprocal(), (4,)),
    "prelu": (lambda x, w: x * F.prelu(x, w), (2, 3), (2,)),
    # views, copies, sums
    "permute and clone": (lambda x: (x.permute(0, 2, 1).contiguous() * x.transpose(1, 2)).clone(), (2, 3)),
    "transposed weight": (lambda x, w: x @ w.t() @ w, (4,), (3, 4)),
    "pieces of a weight": (lambda x, w: x @ w[:4] + x[:, :2] @ w[4:].view(2, 4) + w[0], (4,), (6, 4)),
    "views of a weight": (lambda x, w: x @ w.permute(1, 0)[None].squeeze(0).squeeze()[None][0], (4,), (2, 4)),
    "unsafe view": (lambda x, w: x @ w, (2, 3), (3, 2)),
    "select": (lambda x: x[:, 1] * x[:, -1], (3, 2)),
    "slice": (lambda x: x[:, 1::2] * x[:, :-2], (4,)),
    "expand": (lambda x: x[:, None].expand(-1, 3, -1) * x.unsqueeze(1), (2,)),
    "expanded weight": (lambda x, w: x * w.expand(len(x), -1) * w, (2,), (2,)),
    "squeeze": (lambda x: x.squeeze() * x.squeeze(1) * x.squeeze((1,)), (1, 3)),
    "sums": (lambda x: x.sum(1) * x.sum((1, 2), keepdim=True).squeeze(2) * x.sum(), (2, 3)),
    "means": (lambda x: x.mean(1) * x.mean((1, 2), keepdim=True).squeeze(2) * x.mean(), (2, 3)),
    "negation": (lambda x: -x, (4,)),
    "pad": (lambda x: F.pad(x, (1, -1)) * x, (4,)),
    "repeat": (lambda x: x.repeat(1, 2) * 2, (3,)),
    "cumulative sum": (lambda x: x.cumsum(1) * x, (4,)),
    "triangles": (lambda x: x.tril() * x + x.triu(1), (3, 3)),
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), (4, 2, 1)),
    "upsample by copies": (lambda x: F.interpolate(x, scale_factor=2), (1, 2, 2)),
    "upsample": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (1, 2, 2)),
    "concatenate": (lambda x, w: torch.cat([x * x, w.expand(len(x), 1), x], 1), (3,), (1, 1)),
    "concatenate one": (lambda x: torch.cat([x], 1) * torch.stack([x], 2)[:, :, 0], (3,)),
    "concatenate with a constant": (lambda x: torch.cat([x, torch.ones_like(x[:, :1])], 1) * 2, (3,)),
    "stack": (lambda x: torch.stack([x * x, x], 2), (3,)),
    "split": (lambda x: x.split([1, 3], 1)[1] * x.chunk(2, 1)[0][:, :1], (4,)),
    "unbind": (lambda x: x.unbind(1)[0] * x.unbind(1)[2], (3, 2)),
    "alias": (lambda x: torch.ops.aten.alias(x) * x, (4,)),
    # products
    "linear": (lambda x, w, b: F.linear(x, w, b), (2, 3), (4, 3), (4,)),
    "matrix product": (lambda x, w: x @ w, (3,), (3, 2)),
    "product of two that move": (lambda x: (x.mT @ x) @ x.mT, (2, 3)),
    "batched sum of products": (lambda x, w: torch.baddbmm(w, x.mT, x, beta=0.5, alpha=2), (2, 3), (3, 3)),
    "sum of products": (lambda x, w: torch.addmm(w[:, 0], x, w, beta=0.5, alpha=2), (3,), (3, 3)),
    "matrix times vector": (lambda x, w: (x @ w)[:, None] * x, (3,), (3,)),
    "dot product": (lambda x, w: torch.dot(w, w) * torch.dot(x[0], w) * x, (3,), (3,)),
    "einsum": (lambda x, w: torch.einsum("bij,bkj,ml->bikl", x, x, w), (2, 3), (2, 2)),
    # convolutions
    "convolution": (lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1), IMAGE, (3, 2, 3, 3), (3,)),
    "convolution of a sequence": (lambda x, w: F.conv1d(x, w, dilation=2), (2, 5), (3, 2, 2)),
    "convolution in groups": (lambda x, w: F.conv2d(x, w, groups=2), IMAGE, (4, 1, 2, 2)),
    "transposed convolution": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, output_padding=1), (2, 2, 2), (2, 3, 2, 2), (3,)
    ),
    "convolution and fixed norm": (
        lambda x, w, b, g, s: F.batch_norm(F.conv2d(x, w, b), *FIXED, g, s), IMAGE, (2, 2, 3, 3), (2,), (2,), (2,)
    ),
    "convolution without bias and fixed norm": (
        lambda x, w, g, s: F.batch_norm(F.conv2d(x, w), *FIXED, g, s), IMAGE, (2, 2, 3, 3), (2,), (2,)
    ),
    "convolution in groups and fixed norm": (
        lambda x, w, g, s: F.batch_norm(F.conv2d(x, w, groups=2), *FIXED, g, s), IMAGE, (2, 1, 3, 3), (2,), (2,)
    ),
    "convolution used beside its norm": (
        lambda x, w, g, s: (lambda made: made * F.batch_norm(made, *FIXED, g, s))(F.conv2d(x, w)),
        IMAGE, (2, 2, 3, 3), (2,), (2,),
    ),
    # normalisation
    "fixed norm": (lambda x, g, s: F.batch_norm(x * x, *FIXED, g, s), (2, 3), (2,), (2,)),
    "fixed norm without weights": (lambda x: F.batch_norm(x, *FIXED), (2,)),
    "batch norm": (lambda x, g, s: F.batch_norm(x, None, None, g, s, training=True), (2, 2, 2), (2,), (2,)),
    "batch norm without weights": (lambda x: F.batch_norm(x, None, None, training=True), (2,)),
    "instance norm": (lambda x, g, s: F.instance_norm(x, weight=g, bias=s), (2, 2, 2), (2,), (2,)),
    "layer norm": (lambda x, g, s: F.layer_norm(x, (2, 3), g, s), (2, 2, 3), (2, 3), (2, 3)),
    "layer norm without weights": (lambda x: F.layer_norm(x, (3,)), (2, 3)),
    "layer norm without shift": (lambda x, g: F.layer_norm(x, (3,), g), (2, 3), (3,)),
    "group norm": (lambda x, g, s: F.group_norm(x, 2, g, s), (4, 2, 2), (4,), (4,)),
    "rms norm": (lambda x, g: F.rms_norm(x, (3,), g), (2, 3), (3,)),
    # softmax and attention
    "softmax": (lambda x: F.softmax(x, -1), (2, 3)),
    "log softmax": (lambda x: F.log_softmax(x, 1), (2, 3)),
    "log sum exp": (lambda x: x.logsumexp((1, 2))[:, None] * x.logsumexp(1, keepdim=True)[:, 0], (2, 3)),
    "attention": (lambda x, w: F.scaled_dot_product_attention(x @ w, x, x), (2, 3, 2), (2, 2)),
    "causal attention": (lambda x, w: F.scaled_dot_product_attention(x @ w, x, x, is_causal=True), (2, 3, 2), (2, 2)),
    # pooling
    "max pool": (lambda x: F.max_pool2d(x, 2, padding=1) * 2, IMAGE),
    "max pool of a sequence": (lambda x: F.max_pool1d(x, 2), (2, 4)),
    "mean pool": (lambda x: F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False), IMAGE),
    "adaptive mean pools": (lambda x: F.adaptive_avg_pool2d(x, 1) * F.adaptive_avg_pool2d(x, 3), IMAGE),
    "adaptive max pool": (lambda x: F.adaptive_max_pool2d(x, 3) * 2, IMAGE),
    "largest along an axis": (lambda x: x.max(1)[0] * x.min(2, keepdim=True)[0].squeeze(2)[:, :1], (2, 3)),
    "largest over axes": (lambda x: x.relu().amax(2) * x.amin((1, 2), keepdim=True).squeeze(2), (2, 3)),
    # looking up
    "embedding": (lambda x, w: F.embedding(INDEX, w, padding_idx=0).sum(0) * x, (2,), (4, 2)),
    "indices": (lambda x, w: x[:, INDEX] * w[INDEX] * x[:, INDEX > -1], (3,), (3,)),
    "index select": (lambda x: x.index_select(1, INDEX) * x, (3,)),
    "gather": (lambda x: x.gather(1, INDEX.expand(len(x), -1)) * x, (3,)),
}  # fmt: skip


def mean_loss(loss: Callable[..., Tensor], **options: object) -> Callable[[Tensor, Tensor], Tensor]:
    """One loss for each example, of one-hot targets."""
    return lambda output, target: loss(output, EYE[target, :3], reduction="none", **options).mean(1)


def whole_loss(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean as torch takes it, as if all examples had it."""
    return lambda output, target: loss(output, EYE[target, :3]).expand(len(output))


LOSSES: dict[str, str | Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": "cross_entropy",
    "half squared error": lambda output, target: (output - EYE[target, :3]).square().sum(1) / 2,
    "smoothed cross-entropy": lambda o, t: F.cross_entropy(o, t, reduction="none", label_smoothing=0.1),
    "weighted cross-entropy": lambda o, t: F.cross_entropy(
        o, t, torch.tensor([1.0, 2.0, 3.0], dtype=o.dtype), reduction="none"
    ),
    "mean cross-entropy": lambda o, t: F.cross_entropy(o, t, ignore_index=1).expand(len(o)),
    "cross-entropy of probabilities": lambda o, t: F.cross_entropy(o, EYE[t, :3], reduction="none"),
    "mean cross-entropy of probabilities": lambda o, t: F.cross_entropy(o, EYE[t, :3]).expand(len(o)),
    "cross-entropy of pixels": lambda o, t: F.cross_entropy(
        o[:, :, None, None].expand(-1, -1, 2, 1), t[:, None, None].expand(-1, 2, 1), reduction="none"
    ).sum((1, 2)),
    "squared error": mean_loss(F.mse_loss),
    "mean squared error": whole_loss(F.mse_loss),
    "smooth absolute error": mean_loss(F.smooth_l1_loss, beta=0.3),
    "huber": whole_loss(F.huber_loss),
    "binary cross-entropy": whole_loss(F.binary_cross_entropy_with_logits),
    "weighted binary cross-entropy": mean_loss(
        F.binary_cross_entropy_with_logits, pos_weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    ),
    "divergence": lambda o, t: F.kl_div(F.log_softmax(o, 1), EYE[t, :3], reduction="none").sum(1),
}
