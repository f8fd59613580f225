import pytest
import torch
from torch import nn

from tdro_lightning.losses.replay import seeded


def test_the_same_key_gives_the_same_dropout() -> None:
    dropout, ones = nn.Dropout(0.5), torch.ones(64)
    drawn = []
    for key in ((42, 0, 1), (42, 0, 1), (42, 1, 1), (42, 0), (0, 42, 1)):
        with seeded(*key):
            drawn.append(torch.stack([dropout(ones), dropout(ones)]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0][0], drawn[0][1])
    for other in drawn[2:]:
        assert not torch.equal(drawn[0], other)


def test_the_generators_go_on_from_where_they_were() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        undisturbed = torch.rand(8)
        torch.manual_seed(11)
        first = torch.rand(4)
        with seeded(3):
            torch.rand(100)
        assert torch.equal(torch.cat([first, torch.rand(4)]), undisturbed)


def test_also_after_an_exception() -> None:
    now = torch.get_rng_state()

    def draw_and_fail() -> None:
        with seeded(1):
            torch.rand(100)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), now)
