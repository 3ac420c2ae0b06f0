"""Networks in which every branch can be detached, so that the gradient without it is known."""

from collections.abc import Callable

import torch
from networks import mlp, stack
from torch import Tensor, nn


class Switch(nn.Module):
    """Lets the gradient through, or not."""

    on = True

    def forward(self, x: Tensor) -> Tensor:
        return x if self.on else x.detach()


class Gated(nn.Module):
    """A transform gate T, a carry gate C and H, put together with the carried value as `join` does it."""

    def __init__(self, join: Callable[..., Tensor], coupled: bool = True) -> None:
        super().__init__()
        self.plain, self.gate, self.carry = (nn.Linear(4, 4) for _ in range(3))
        self.join, self.coupled, self.switch = join, coupled, Switch()

    def forward(self, x: Tensor) -> Tensor:
        transform = self.gate(x).sigmoid()
        carry = 1 - transform if self.coupled else self.carry(x).sigmoid()
        through = (self.switch(value) for value in (self.plain(x).tanh(), transform, carry))
        return self.join(x, *through)


class DenseLayers(nn.Module):
    """Three layers on a list of features, and one that is concatenated with them all at once."""

    def __init__(self, keeps_list: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(mlp(w, 2), nn.Tanh(), Switch()) for w in (4, 6, 8)])
        self.keeps_list, self.out = keeps_list, nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            new = layer(torch.cat(features, dim=1))
            features = [*features, new] if self.keeps_list else [torch.cat([*features, new], dim=1)]
        return self.out(torch.cat(features, dim=1))


class LongSkip(nn.Module):
    """One step down and up, with a residual block at the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom, self.up, self.out = mlp(4, 4), mlp(4, 3, 4), mlp(4, 4), nn.Linear(8, 3)
        self.below, self.across = Switch(), Switch()

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x).tanh()
        deep = x.square()
        deep = deep + self.below(self.bottom(deep))
        return self.out(torch.cat([x, self.across(self.up(deep).tanh())], dim=1))


class DualPath(nn.Module):
    """A residual part and a dense part, each with its piece of one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.sum, self.beside = mlp(4, 5, 4), Switch(), Switch()

    def forward(self, x: Tensor) -> Tensor:
        kept, dense = x[:, :3], x[:, 3:]
        added, beside = self.branch(x).split([3, 1], dim=1)
        return torch.cat([kept + self.sum(added), dense, self.beside(beside)], dim=1)[:, :4]


class Fused(nn.Module):
    """The weights of the branch are those of the sum itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.weight, self.switch = nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4)), Switch()

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(x, self.switch(self.inner(x).tanh()), self.switch(self.weight))


def in_place(x, h, t, c):
    carried = x * c
    carried += t * h
    return carried


SPELLINGS: dict[str, Callable[..., Tensor]] = {
    "T H + C h": lambda x, h, t, c: t * h + c * x,
    "h C + H T": lambda x, h, t, c: x * c + h * t,
    "T H - (-C) h": lambda x, h, t, c: t * h - (-c) * x,
    "in place": in_place,
    "copied": lambda x, h, t, c: t * h + (c * x).clone(),
    "lerp to H": lambda x, h, t, c: torch.lerp(x, h, t),
    "lerp to h": lambda x, h, t, c: torch.lerp(h, x, c),
    "addcmul of h": lambda x, h, t, c: torch.addcmul(t * h, c, x),
    "addcmul of H": lambda x, h, t, c: torch.addcmul(x * c, t, h),
    "stacked": lambda x, h, t, c: torch.stack([t * h, x * c]).sum(0),
}
NETS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda join=join: stack(lambda: Gated(join), 3) for name, join in SPELLINGS.items()},
    "uncoupled": lambda: stack(lambda: Gated(SPELLINGS["T H + C h"], coupled=False), 3),
    "rewritten": lambda: stack(lambda: Written(), 3),
    "dense list": lambda: DenseLayers(True),
    "dense": lambda: DenseLayers(False),
    "long skip": LongSkip,
    "dual path": lambda: stack(DualPath, 2),
    "fused": lambda: stack(Fused, 3),
}


class Written(Gated):
    """h + T (H - h), which is a sum of h and a branch."""

    def __init__(self) -> None:
        super().__init__(lambda x, h, t, c: x)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.switch(self.gate(x).sigmoid() * (self.plain(x).tanh() - x))


def build(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return NETS[name]().double()
