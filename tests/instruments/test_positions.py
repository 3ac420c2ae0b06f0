"""Exchanging what runs at a position: the model is as found, and what cannot be exchanged is refused."""

import copy
from contextlib import ExitStack, contextmanager

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, Repeated, Residual, mlp, stack
from torch import nn
from tuple_blocks import tuple_stack

from gradscope.instruments.gates.rewiring import parallel, reorder, repeat, skipped


@pytest.fixture
def tuples():
    return tuple_stack()


@contextmanager
def everything(model, names):
    with reorder(model, names[::-1]), repeat(model, names[:2]), parallel(model, names[1:]):
        with skipped(model, names[:1]):
            yield


@pytest.mark.parametrize("raised", [None, ValueError, KeyboardInterrupt])
def test_the_model_is_as_found(raised, tuples):
    model, names, x = tuples
    used(model)
    own = model.layers[1].forward
    model.layers[1].forward = own
    before, attributes = snapshot(model), [dict(m.__dict__) for m in model.modules()]
    expected = model(x)
    for where in ("body", "forward"):
        with ExitStack() as caught:
            if raised:
                caught.enter_context(pytest.raises(raised, match=where))
            with everything(model, names):
                model(x)
                if raised and where == "body":
                    raise raised(where)
                if raised:
                    handle = model.layers[2].branch.register_forward_pre_hook(
                        lambda m, a: (_ for _ in ()).throw(raised("forward"))
                    )
                    try:
                        model(x)
                    finally:
                        handle.remove()
        assert_as_found(model, before)
        assert [m.__dict__.keys() for m in model.modules()] == [a.keys() for a in attributes]
        assert model.layers[1].__dict__["forward"] is own
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_a_forward_after_an_interrupted_one_is_counted_anew(tuples):
    model, names, x = tuples
    with reorder(model, names[::-1]):
        expected = model(x)
        with pytest.raises(RuntimeError):
            model(x[:, :2])
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
        # A block called by itself, outside of the model's forward, may run as often as one likes.
        for _ in range(2):
            model.layers[0](hidden=x, scale=torch.ones((), dtype=x.dtype))


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "a list of at least one"),
        ("layers.0", "a list of at least one"),
        (["layers.0", "layer.1"], r"no module 'layer\.1' inside it\. Close names: .*layers\.1,"),
        (["layers.0", ""], "no module '' inside it"),
        (["layers.99"], r"no module 'layers\.99' inside it\. layers holds: layers\.0, layers\.1, layers\.2"),
        (["layers.0.brunch"], r"layers\.0 holds: layers\.0\.branch\.$"),
        ([0, 1], r"named by strings, .* got 0 in \[0, 1\]\. gs\.interchangeable"),
        ([["layers.0"]], r"named by strings, .* got \['layers\.0'\]"),
        (3, "a list of at least one, got 3"),
        (["layers.0", "layers.0"], r"layers\.0 is named twice"),
        (["layers.0", "layers.0.branch"], r"layers\.0\.branch lies inside layers\.0"),
    ],
)
@pytest.mark.parametrize("gate", [reorder, repeat, parallel, skipped])
def test_names_are_checked(gate, names, match, tuples):
    model, _, _ = tuples
    before = snapshot(model)
    with pytest.raises(ValueError, match=match):
        with gate(model, names):
            pass
    assert_as_found(model, before)


def test_errors_of_the_user_stay_what_they_are_and_get_a_note(tuples):
    model, names, x = tuples

    def complain(module, arguments):
        raise KeyError("mine")

    model.layers[1].branch.register_forward_pre_hook(complain)
    with reorder(model, names[::-1]), pytest.raises(KeyError, match="mine") as caught:
        model(x)
    (note,) = caught.value.__notes__
    assert note.startswith("layers.1 was running at the position of layers.2, on an input of shape [3, 4].")


def test_more_that_is_refused(tuples):
    model, names, _ = tuples
    with pytest.raises(ValueError, match="at least 1; got 0"):
        with parallel(model, names, loops=0):
            pass
    with pytest.raises(ValueError, match="no module 'elsewhere'"):
        with repeat(model, names, "elsewhere"):
            pass
    with pytest.raises(ValueError, match=r"named by strings, .* got 0 in"):
        with repeat(model, names, 0):
            pass
    with pytest.raises(ValueError, match=r"layers\.1 lies inside layers"):
        with repeat(model, names[1:2], "layers"):
            pass
    model.layers[3] = model.layers[0]
    with pytest.raises(ValueError, match=r"layers\.0 and layers\.3 are one module"):
        with reorder(model, names):
            pass
    with pytest.warns(DeprecationWarning):
        scripted = nn.Sequential(torch.jit.script(nn.Linear(2, 2)), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="0 is a scripted module"):
        with reorder(scripted, ["1", "0"]):
            pass


def test_a_copy_taken_inside_would_run_the_original_and_is_refused(tuples):
    model, names, x = tuples
    with reorder(model, names[::-1]):
        with pytest.raises(RuntimeError, match=r"Another block runs at layers\.0 .* Copy it outside"):
            copy.deepcopy(model)
    assert torch.equal(copy.deepcopy(model)(x)[0], model(x)[0])


def test_a_module_that_runs_twice_is_no_position():
    model = stack(lambda: Repeated(Residual(mlp(4, 3, 4)), 2), 2).double()
    x = torch.ones(1, 4, dtype=torch.float64)
    with reorder(model, ["3", "2"]):
        model(x)
    with reorder(model, ["3.block", "2.block"]), pytest.raises(RuntimeError, match="runs a second time"):
        model(x)


def test_blocks_that_change_the_shape_cannot_move():
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    # Channels that do not fit are the layer's own complaint, inside a sentence that says what it was doing there.
    told = r"^7 was running at .* of 4, on an input of shape \[4, 3, 3, 3\], and failed: .*channels.* can change places"
    with reorder(model, ["7", "4"]), pytest.raises(RuntimeError, match=told) as caught:
        model(x)
    assert "channels" in str(caught.value.__cause__)
    with parallel(model, ["4", "7"]), pytest.raises(RuntimeError, match=told):
        model(x)
    with (
        reorder(model, ["6", "4"]),
        pytest.raises(ValueError, match=r"6, running at .* of 4, maps \[4, 3, 3, 3\]"),
    ):
        model(x)
    wide = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 3)).double()
    with (
        reorder(wide, ["1", "0", "2"]),
        pytest.raises(ValueError, match=r"1, running at .* of 0, maps \[2, 4\]"),
    ):
        wide(torch.ones(2, 4, dtype=torch.float64))
    with parallel(wide, ["0", "1"]), pytest.raises(ValueError, match=r"1, running at .* of 0, maps \[2, 4\]"):
        wide(torch.ones(2, 4, dtype=torch.float64))


def test_what_is_no_tensor_is_refused():
    class Numbers(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Identity(), nn.Identity()

        def forward(self, x):
            return self.b(self.a(3)) * x

    model = Numbers()
    with reorder(model, ["b", "a"]), pytest.raises(ValueError, match="called without a tensor"):
        model(torch.ones(1))
