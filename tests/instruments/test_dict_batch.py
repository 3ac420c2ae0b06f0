"""A model called with keywords takes its batch as a dict; one whose forward takes a dict gets it by name."""

from collections import UserDict

import pytest
import torch
from as_found import assert_as_found, snapshot
from torch import nn

from gradscope.instruments.gates.interchangeable import interchangeable
from gradscope.instruments.junctions import junctions


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.mlp = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, hidden, mask=None):
        hidden = hidden + self.attention(hidden) * mask
        return hidden + self.mlp(hidden).tanh()


class Called(nn.Module):
    """As transformers are called: token ids and a mask by keyword."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, input_ids=None, attention_mask=None):
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden, mask=attention_mask[..., None])
        return {"logits": hidden}


class TakesDict(Called):
    def forward(self, batch):
        return super().forward(batch["input_ids"], batch["attention_mask"])


BATCH = {"input_ids": torch.arange(6).view(2, 3), "attention_mask": torch.ones(2, 3)}
LABELLED = BATCH | {"labels": torch.zeros(2)}


@pytest.mark.parametrize("batch", [BATCH, LABELLED, UserDict(LABELLED)], ids=["plain", "labels", "mapping"])
def test_a_dict_is_handed_over_as_keywords_without_its_labels(batch):
    model = Called()
    before = snapshot(model)
    found = junctions(model, batch)
    assert list(found) == list(junctions(model, **BATCH))
    assert [j.name for j in found.matching("blocks.*:1")] == [f"blocks.{i}:1" for i in range(3)]
    assert interchangeable(model, batch) == [[f"blocks.{i}" for i in range(3)]]
    assert_as_found(model, before)
    assert "labels" in batch or batch is BATCH


def test_a_forward_that_takes_a_dict_gets_it_by_name():
    model = TakesDict()
    assert len(junctions(model, batch=BATCH)) == 6
    told = (
        r"TakesDict cannot be called with input_ids, attention_mask: .* name that argument: .*batch=batch\)"
    )
    for look in (junctions, interchangeable):
        with pytest.raises(ValueError, match=told):
            look(model, BATCH)


def test_more_arguments_are_handed_over_as_they_are():
    class Two(TakesDict):
        def forward(self, batch, scale):
            return {"logits": scale * super().forward(batch)["logits"]}

    assert len(junctions(Two(), BATCH, 2.0)) == len(junctions(Two(), BATCH, scale=2.0)) == 6
