"""The numbering of additions."""

import torch
from networks import NETWORKS, Residual, mlp
from torch import nn

from gradscope.instruments.junctions.calls import additions


def test_numbers_start_anew_in_each_forward_and_only_the_model_counts():
    model, heard = nn.Sequential(*[Residual(mlp(4, 3, 4)) for _ in range(3)]), []
    with additions(model, report=heard.append) as counter:
        for _ in range(2):
            x = torch.ones(2, 4) + torch.ones(2, 4)
            model(x)
            assert counter.count == 3
    assert [call.number for call in heard] == [0, 1, 2] * 2
    assert [call.module for call in heard] == ["0", "1", "2"] * 2
    assert {call.shape for call in heard} == {(2, 4)}


def test_additions_of_integers_and_of_numbers_are_not_counted():
    class Adds(nn.Module):
        def forward(self, x):
            (torch.arange(3) + torch.arange(3)), x + 1
            return x + x

    with additions(Adds()) as counter:
        pass
    model = Adds()
    with additions(model) as counter:
        model(torch.ones(3))
    assert counter.count == 1


def test_an_operand_is_replaced_in_place_and_out_of_place():
    class InPlace(nn.Module):
        def forward(self, x):
            y = x * 2
            y += x
            return y

    class OutOfPlace(nn.Module):
        def forward(self, x):
            return x * 2 + x

    x = torch.randn(3)
    for model in (InPlace(), OutOfPlace()):
        with additions(model, {(0, 0): torch.zeros_like}):
            assert torch.equal(model(x), x)
        with additions(model, {(0, 1): torch.zeros_like}):
            assert torch.equal(model(x), 2 * x)
        assert torch.equal(model(x), 3 * x)


def test_numbers_without_gradients_are_those_with_gradients():
    for name in ("post-activation", "encoder layers", "tokens"):
        specimen = NETWORKS[name]
        model, counts = specimen.build(), []
        for enabled in (True, False):
            with torch.set_grad_enabled(enabled), additions(model) as counter:
                model(specimen.inputs())
            counts.append(counter.count)
        assert counts[0] == counts[1] > 0


def test_concatenations_and_stacks_share_the_numbers_of_additions():
    class Joins(nn.Module):
        def forward(self, x):
            whole = (
                torch.cat([x, x]),
                torch.hstack((x, x)),
                torch.concat(tensors=[x, x]),
                torch.stack([x, x], dim=1),
            )
            torch.cat([x]), torch.cat([torch.arange(2), torch.arange(2)])
            return sum(part.sum() for part in whole) + torch.addcmul(x, x, x).sum()

    heard = []
    with additions(Joins(), report=heard.append) as counter:
        pass
    model = Joins()
    with additions(model, report=heard.append) as counter:
        model(torch.ones(3))
    assert [call.operation for call in heard] == [
        "cat",
        "cat",
        "cat",
        "stack",
        *["add"] * 3,
        "addcmul",
        "add",
    ]
    assert [call.number for call in heard] == list(range(counter.count)) and counter.count == 9
    with additions(model, {(0, 1): torch.zeros_like, (2, 0): torch.zeros_like, (3, 1): torch.zeros_like}):
        assert model(torch.ones(3)) == 3 * (8 - 3 + 2)


def test_listening_to_an_operand_leaves_the_graph_alone():
    class InPlace(nn.Module):
        def forward(self, x):
            y = x * 2
            y += x
            return y

    model, heard = InPlace(), []

    def listen(operand):
        heard.append(operand.detach().clone())
        return operand

    x = torch.randn(3, requires_grad=True)
    with additions(model, {(0, 0): listen, (0, 1): listen}):
        output = model(x)
    assert torch.equal(heard[0], 2 * x) and torch.equal(heard[1], x)
    assert output.grad_fn.next_functions[0][0].name() == "MulBackward0"


def test_deprecated_and_foreign_arguments_are_handed_on():
    class Plain(nn.Module):
        def forward(self, x):
            return torch.add(x, 1) + torch.lerp(x, x, torch.tensor(0.5)) + torch.cat((x, x[:0]), -1)

    model, x = Plain(), torch.randn(3)
    with additions(model, {(0, 0): torch.zeros_like}) as counter:
        assert torch.equal(model(x), (x + 1 + torch.lerp(x * 0, x, torch.tensor(0.5))) + x)
    assert counter.count == 4
