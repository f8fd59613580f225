import pytest
import torch
from torch import nn

from tdro_lightning.retrieval.replay import RandomState


@pytest.fixture(autouse=True)
def _own_generator() -> object:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        yield


def test_dropout_again_exactly_and_on_from_where_it_was() -> None:
    dropout, ones = nn.Dropout(0.5), torch.ones(64)
    state = RandomState()
    first, second = dropout(ones), dropout(ones)
    now = torch.get_rng_state()
    with state.replayed():
        again = [dropout(ones), dropout(ones)]
    assert torch.equal(torch.get_rng_state(), now)
    assert torch.equal(again[0], first)
    assert torch.equal(again[1], second)
    assert not torch.equal(first, second)


def test_more_than_once_and_after_other_draws() -> None:
    state = RandomState()
    first = torch.rand(5)
    torch.rand(1000)
    for _ in range(2):
        with state.replayed():
            assert torch.equal(torch.rand(5), first)


def test_an_exception_inside_leaves_the_generators_where_they_were() -> None:
    state = RandomState()
    torch.rand(3)
    now = torch.get_rng_state()

    def draw_and_fail() -> None:
        with state.replayed():
            torch.rand(100)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), now)
