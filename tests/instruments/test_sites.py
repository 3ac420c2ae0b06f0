"""Named places."""

import pytest
from networks import NETWORKS
from torch import nn

from gradscope.instruments.sites import sites


def tree() -> nn.Module:
    model = nn.Module()
    model.stem = nn.Linear(2, 2)
    model.blocks = nn.Sequential(*[nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(11)])
    model.again = model.stem
    return model


def found(at=None):
    return [site.name for site in sites(tree(), at)]


def test_by_default_every_module_with_parameters_of_its_own():
    assert found() == ["stem", *[f"blocks.{b}.0" for b in range(11)]]


def test_a_star_stands_for_one_name_or_a_part_of_it():
    assert found("blocks.*") == [f"blocks.{b}" for b in range(11)]
    assert found("blocks.1*") == ["blocks.1", "blocks.10"]
    assert found("blocks.?.1") == [f"blocks.{b}.1" for b in range(10)]


def test_two_stars_stand_for_any_path():
    assert found("blocks.3**") == ["blocks.3", "blocks.3.0", "blocks.3.1"]
    assert len(found("**")) == 1 + 1 + 11 + 22
    assert found("*") == ["stem", "blocks"]


def test_several_patterns_give_each_module_once_in_the_networks_order():
    assert found(["blocks.2", "stem", "blocks.[2]", "s*"]) == ["stem", "blocks.2"]


def test_a_second_name_of_a_module_matches_too():
    assert found("again") == ["again"]
    assert found(["stem", "again"]) == ["stem"]


def test_the_network_itself_is_the_empty_name():
    assert found("") == [""]


def test_brackets_and_dots_are_letters_like_others():
    with pytest.raises(ValueError, match="No site of Module matches"):
        found("blocks[.]0")


def test_nothing_found_lists_near_names_and_children():
    with pytest.raises(ValueError, match=r"No site of Module matches 'block\.0'\. Close names: .*blocks\.0"):
        found("block.0")
    with pytest.raises(ValueError, match="Its children are: stem, blocks"):
        found("zzz")
    with pytest.raises(ValueError, match="has no module with parameters of its own"):
        sites(nn.ReLU())


def test_sites_hold_the_modules():
    model = NETWORKS["post-activation"].build()
    assert all(site.module is model.get_submodule(site.name) for site in sites(model))
