"""Networks that are hard to enter in the middle: functional code, several ways through, numbers that Python sees."""

import torch
from networks import Residual, mlp, stack
from torch import nn


class AddsAtTheTop(nn.Module):
    """Functional code: additions, activations, a mask that every layer reads; an in-place addition and ReLU."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(4, 4) for _ in range(4)])
        self.position = nn.Embedding(3, 4)

    def forward(self, x):
        mask = torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).tril_()
        mask /= mask.sum(dim=1, keepdim=True)
        positions = self.position(torch.arange(x.shape[1]))
        for place, weight in enumerate(self.weights):
            branch = mask @ (x + positions).tanh() @ weight
            if place % 2:
                branch += x
                x = branch.relu_()
            else:
                x = torch.add(x, branch, alpha=0.5)
        return x.sum(dim=1)


class EncoderDecoder(nn.Module):
    """Every layer of the decoder reads what the encoder made."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = stack(lambda: Residual(mlp(4, 3, 4)), 3, 4), nn.ModuleList()
        self.encoder[-1] = nn.Linear(4, 4)
        self.decoder.extend([mlp(8, 3, 4) for _ in range(5)])

    def forward(self, x):
        memory = self.encoder(x)
        x = x.tanh()
        for layer in self.decoder:
            x = x + layer(torch.cat([x, memory], dim=1))
        return x


class SharedModule(nn.Module):
    """One module called several times, with different layers in between, and a buffer counting its passes."""

    def __init__(self):
        super().__init__()
        self.shared, self.own = mlp(4, 3, 4), nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        for layer in self.own:
            x = x + self.shared(layer(x))
        return x


class Peeks(nn.Module):
    """What Python sees of the numbers decides what is computed later."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Residual(mlp(4, 3, 4)) for _ in range(4)])

    def forward(self, x):
        scale = 1.0
        for block in self.blocks:
            x = block(x)
            scale *= x.abs().max().item()
        return x * scale


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Residual(mlp(4, 3, 4)) for _ in range(3)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x) + torch.randn_like(x)
        return x


class Another(nn.Module):
    """Batches of more than four examples take another way."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(4) for _ in range(4)])
        self.blocks = nn.ModuleList([Residual(mlp(4, 3, 4)) for _ in range(4)])

    def forward(self, x):
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = block(norm(x).tanh() if len(x) > 4 else norm(x))
        return x


class Blocks(nn.Module):
    """A stem, four residual blocks and a head; subclasses do something with what they compute."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.branches = nn.ModuleList([mlp(4, 3, 4) for _ in range(4)])


class Picks(Blocks):
    """Batches of more than four examples take another one of two masks: the same calls on other operands."""

    def forward(self, x):
        positive, most, h = x > 0, x > -0.5, self.stem(x)
        mask = positive if len(x) > 4 else most
        for branch in self.branches:
            h = h + branch(h).masked_fill(mask, 0.0)
        return self.head(h)


class PicksInside(Blocks):
    """The same where nobody hands the mask over, and in calls that look alike to whoever is not watching."""

    class Masked(nn.Module):
        def __init__(self, masks):
            super().__init__()
            self.masks, self.branch = masks, mlp(4, 3, 4)

        def forward(self, x):
            masked = self.branch(x).clone()
            masked[self.masks["positive" if len(x) > 4 else "most"]] = 0.0
            return masked

    def __init__(self):
        super().__init__()
        self.masks = {}
        self.branches = nn.ModuleList([self.Masked(self.masks) for _ in range(4)])

    def forward(self, x):
        self.masks["positive"], self.masks["most"] = x > 0, x > -0.5
        h = self.stem(x)
        for branch in self.branches:
            h = h + branch(h)
        return self.head(h)


class PicksSkip(Blocks):
    """In batches of more than four examples the third branch is added to another tensor."""

    def forward(self, x):
        h = self.stem(x)
        other = h.tanh()
        for place, branch in enumerate(self.branches):
            h = (other if place == 2 and len(x) > 4 else h) + branch(h)
        return self.head(h)


class Tells(Blocks):
    """Modules hand on what is no tensor: a batch size, a list with an entry for each example."""

    class Telling(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = mlp(4, 3, 4)

        def forward(self, x):
            x = self.branch(x)
            return {"rows": list(x.unbind(0)), "examples": len(x)}

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([self.Telling() for _ in range(4)])

    def forward(self, x):
        h, examples = self.stem(x), 0
        for branch in self.branches:
            told = branch(h)
            h, examples = h + torch.stack(told["rows"]), examples + told["examples"]
        return self.head(h) / examples


class Counts(Blocks):
    """The shape of a tensor depends on numbers, Python reads it after the first block and uses it at the end."""

    def __init__(self, selected):
        super().__init__()
        self.selected = selected

    def forward(self, x):
        h, count = self.stem(x), 0
        for place, branch in enumerate(self.branches):
            h = h + branch(h)
            if place == 0:
                count = self.selected(h).shape[0]
        return self.head(h) * (1 + count)


class Keeps(Blocks):
    """Attributes: a flag that is not reset when a pass breaks off, a stem's value, a list, a counter, a buffer."""

    def __init__(self):
        super().__init__()
        self.busy, self.passes, self.values, self.cache, self.first = False, 0, [], {}, None
        self.register_buffer("latest", torch.zeros(()))

    def forward(self, x):
        if self.busy:
            raise RuntimeError("entered twice")
        self.busy = True
        h = self.stem(x)
        self.first, self.latest, self.cache["stem"] = h.detach(), h.mean(), h
        self.values.append(h.norm())
        self.branches[0].seen = h
        for branch in self.branches:
            h = h + branch(h)
        self.passes += 1
        self.busy = False
        return self.head(h)
