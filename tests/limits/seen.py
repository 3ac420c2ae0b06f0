"""Rows of docs/limitations.md on what is seen of a model."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

import gradscope as gs
from limits.register import Block, Highway, Y, net, row, sums, x


@row("additions in a custom kernel or `autograd.Function`")
def _():
    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(context, skip, branch):
            return skip + branch

        @staticmethod
        def backward(context, gradient):
            return gradient, gradient

    with pytest.warns(UserWarning, match="FusedBackward.*by hand"):
        assert sums(Fused.apply) == 0
    assert sums(torch.add) == 1


@row("sums of a stack that is weighted before it is summed, `einsum` over a stack")
def _():
    share = torch.tensor([0.5, 0.5])
    assert sums(lambda skip, branch: (share[:, None, None] * torch.stack([skip, branch])).sum(dim=0)) == 0
    assert sums(lambda skip, branch: torch.einsum("s,sij->ij", share, torch.stack([skip, branch]))) == 0
    assert sums(lambda skip, branch: torch.stack([skip, branch]).sum(dim=0)) == 1
    assert sums(lambda skip, branch: torch.lerp(skip, branch, 0.5)) == 1


@row("several inputs")
def _():
    class Two(Highway):
        def forward(self, inputs, other, mask=None):
            side = self.gate(other)
            side = side + self.plain(side).tanh()
            return inputs + self.plain(inputs).tanh() if mask is None else (inputs + mask) + side

    model = Two()
    assert len(gs.junctions(model, x(), x())) == 1
    assert len(gs.junctions(model, x(), x(), mask=x())) == 1
    assert len(gs.junctions(model, x(), torch.randn(4), mask=x())) == 0


@row("compiled models (`torch.compile`)")
def _():
    model, inputs = net(), x()
    torch.compiler.reset()  # what other tests compiled would be compiled again for any batch size
    compiled = torch.compile(model, backend="aot_eager")
    whole = compiled(inputs)
    whole.sum().backward()
    for measure in (gs.path_spectrum, gs.lesion_study):
        with pytest.raises(ValueError, match="force_eager"):
            measure((compiled, (inputs, Y)))
    with pytest.raises(ValueError, match="force_eager"):
        gs.junctions(compiled, inputs)
    with pytest.raises(ValueError, match="_orig_mod"):
        gs.hessian((compiled, (inputs, Y)))
    with gs.probes.gradient_norm(compiled) as deaf:
        compiled(inputs).sum().backward()
    assert len(deaf) == 0
    with torch.compiler.set_stance("force_eager"):
        with gs.probes.gradient_norm(compiled) as hearing:
            compiled(inputs).sum().backward()
        with gs.lesion(compiled, gs.junctions(compiled, inputs)[0]):
            lesioned = compiled(inputs)
    assert len(hearing) == 5
    with gs.lesion(model, gs.junctions(model, inputs)[0]):
        torch.testing.assert_close(lesioned, model(inputs))


@row("traced models (`torch.jit.trace`)")
def _():
    traced, inputs = torch.jit.trace(net(), x()), x()
    with pytest.raises(ValueError, match="Pass the module that was traced"):
        gs.junctions(traced, inputs)
    with pytest.raises(ValueError, match="Pass the module that was traced"):
        gs.lesion_study((traced, (inputs, Y)), show=False)
    assert gs.path_gradients((traced, (inputs, Y))).shape == (3, 6, 4)
    assert set(gs.gradient_correlation((traced, (inputs, Y)))["site"]) == {"input"}


@row("scripted models (`torch.jit.script`)")
def _():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)))
    with pytest.raises(RuntimeError, match="hook"):
        gs.gradient_correlation((scripted, (x(), Y)))
    with pytest.raises(ValueError, match="The whole model is scripted"):
        gs.lesion_study((scripted, (x(), Y)), show=False)


@row("reentrant checkpointing")
def _():
    class Checkpointed(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            self.block, self.head, self.reentrant = Block(), nn.Linear(4, 3), reentrant

        def forward(self, inputs):
            checkpoint = torch.utils.checkpoint.checkpoint
            return self.head(checkpoint(self.block, inputs, use_reentrant=self.reentrant))

    with pytest.raises(ValueError, match="use_reentrant=False"):
        gs.junctions(Checkpointed(True), x())
    assert len(gs.junctions(Checkpointed(False), x())) == 1


@row("`torch.inference_mode`")
def _():
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        gs.junctions(net(), x())
    with torch.no_grad():
        assert len(gs.junctions(net(), x())) == 2


@row("integer inputs that no `nn.Embedding` reads")
def _():
    class Tokens(nn.Module):
        def __init__(self, embedding: nn.Module) -> None:
            super().__init__()
            self.embedding, self.block = embedding, Block()

        def forward(self, tokens):
            return self.block(self.embedding(tokens)).mean(dim=1)

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.randn(5, 4))

        def forward(self, tokens):
            return self.rows[tokens]

    tokens = torch.randint(5, (6, 3))
    with pytest.raises(ValueError, match=r"nn\.Embedding"):
        gs.junctions(Tokens(Table()), tokens)
    assert len(gs.junctions(Tokens(nn.Embedding(5, 4)), tokens)) == 1


@row("dynamically quantised layers")
def _():
    quantised = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear})
    assert len(gs.junctions(quantised, x())) == 0


@row("models on the meta device")
def _():
    model, inputs = net().to("meta"), x().to("meta")
    assert len(gs.junctions(model, inputs)) == 2
    with pytest.raises(RuntimeError):
        gs.gradient_correlation((model, (inputs, Y.to("meta"))))


@row("a forward whose additions depend on the data")
def _():
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = Block(), Block()

        def forward(self, inputs):
            return self.other(self.one(inputs)) if len(inputs) > 3 else self.one(inputs)

    model = Early()
    found = gs.junctions(model, x())
    with pytest.raises(RuntimeError, match="called 1 additions"), gs.lesion(model, found[0]):
        model(x()[:2])
