"""A small network, its batch, a step away from it, and what an observer read: for the tests of curvature observers."""

import torch
from cases import plain_net


def batch(examples=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (examples,), generator=generator)


def net(make=plain_net, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double().train()


def moved(model, scale, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def values(frame, step=0):
    rows = frame[(frame["step"] == step) & frame["block"].isna() & frame["rank"].isna()]
    names = rows["definition"].where(rows["quantity"] == "condition_number", rows["quantity"])
    return dict(zip(names, rows["value"], strict=True))
