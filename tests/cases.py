"""The problems every test meets: a table from name to problem, in float64, with nets of a few units."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradscope.problem import Problem


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Tied(nn.Module):
    """One square weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Attention(nn.Module):
    """One head over five tokens of width four; the fused kernel has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(4, 12)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(len(x), 5, 4)
        query, key, value = self.query_key_value(tokens)[:, None].chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.head(mixed.squeeze(1).mean(dim=1))


class Unused(nn.Module):
    """Has a layer that the output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def plain_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def residual_net() -> nn.Sequential:
    blocks = [Residual(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))) for _ in range(2)]
    return nn.Sequential(*blocks, nn.Linear(4, 3))


def batch_norm_net(*, calibrated: bool) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    if calibrated:
        generator = torch.Generator().manual_seed(5)
        for _ in range(20):
            net(torch.randn(16, 4, generator=generator, dtype=torch.float64) + 0.5)
        net.eval()
    return net


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )


def frozen_layer_net() -> nn.Sequential:
    net = plain_net()
    for parameter in net[2].parameters():
        parameter.requires_grad_(False)
    return net


def classes(net: nn.Module, *shape: int, sizes: tuple[int, ...] = (7,), batch_norm: str = "auto") -> Problem:
    """Three classes, Gaussian inputs; one batch of each size."""
    generator = torch.Generator().manual_seed(1)
    batches = [
        (
            torch.randn(size, *shape, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (size,), generator=generator),
        )
        for size in sizes
    ]
    return Problem(net.double(), batches, batch_norm=batch_norm)


def regression(net: nn.Module) -> Problem:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    return Problem(net.double(), (inputs, targets), "half_squared_error")


def seeded(make: Callable[[], Problem]) -> Callable[[], Problem]:
    """The same problem on each call, whatever was drawn before."""

    def problem() -> Problem:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make()

    return problem


CASES: dict[str, Callable[[], Problem]] = {
    "plain": seeded(lambda: classes(plain_net(), 4)),
    "residual": seeded(lambda: classes(residual_net(), 4)),
    "in-place ReLU": seeded(
        lambda: classes(nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)), 4)
    ),
    "frozen layer": seeded(lambda: classes(frozen_layer_net(), 4)),
    "tied weights": seeded(lambda: classes(Tied(), 4)),
    "batch norm running": seeded(
        lambda: classes(batch_norm_net(calibrated=True), 4, sizes=(5, 4), batch_norm="running")
    ),
    "batch norm frozen": seeded(
        lambda: classes(batch_norm_net(calibrated=False), 4, sizes=(5, 4), batch_norm="frozen")
    ),
    "batch norm train": seeded(
        lambda: classes(batch_norm_net(calibrated=False), 4, sizes=(5, 4), batch_norm="train")
    ),
    "short last batch": seeded(lambda: classes(plain_net(), 4, sizes=(4, 4, 1))),
    "convolution": seeded(lambda: classes(conv_net(), 1, 4, 4)),
    "half squared error": seeded(lambda: regression(plain_net())),
    "unused parameter": seeded(lambda: classes(Unused(), 4)),
    "attention": seeded(lambda: classes(Attention(), 20)),
}
