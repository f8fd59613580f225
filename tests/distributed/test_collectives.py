from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from tdro_lightning.distributed.collectives import gather_rows, require_equal_on_all_ranks
from tdro_lightning.distributed.processes import rank, world_size
from tests.processes import in_processes

WORLD, ROWS, WIDTH = 2, 3, 4


def made(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def loss_of(gathered: Tensor, shift: Tensor, number: int) -> Tensor:
    """The loss of one process, which reads the rows of all of them."""
    return (made(50 + number, WORLD * ROWS, WIDTH) * (gathered + shift).sin()).sum()


def work(number: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=number, world_size=WORLD
    )
    values = made(number, ROWS, WIDTH).requires_grad_()
    start = made(20 + number, WORLD * ROWS, WIDTH).requires_grad_()
    shift = 2 * start  # made before the gather, so its backward comes after the gather's
    gathered = gather_rows(values.tanh())
    loss_of(gathered, shift, number).backward()
    domains = gather_rows(torch.arange(ROWS) + 10 * number)
    require_equal_on_all_ranks(torch.ones(3), "weights")
    try:
        require_equal_on_all_ranks(torch.ones(3) * (1 + 1e-7 * number), "weights")
        refused = ""
    except RuntimeError as error:
        refused = str(error)
    kept = {
        "refused": refused,
        "place": (rank(), world_size()),
        "gathered": gathered.detach(),
        "domains": domains,
        "values": values.grad,
        "start": start.grad,
    }
    torch.save(kept, Path(folder) / f"{number}.pt")
    dist.destroy_process_group()


def test_one_process_is_the_identity() -> None:
    values = made(1, 3, 4)
    assert gather_rows(values) is values
    assert (rank(), world_size()) == (0, 1)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    in_processes(WORLD, work, str(tmp_path))
    found = [torch.load(tmp_path / f"{number}.pt") for number in range(WORLD)]

    values = torch.cat([made(number, ROWS, WIDTH) for number in range(WORLD)]).requires_grad_()
    starts = [made(20 + n, WORLD * ROWS, WIDTH).requires_grad_() for n in range(WORLD)]
    together = values.tanh()
    sum(loss_of(together, 2 * starts[n], n) for n in range(WORLD)).backward()

    for number, one in enumerate(found):
        assert one["place"] == (number, WORLD)
        assert one["refused"] == "weights of ranks [1] differ from those of rank 0"
        assert one["domains"].tolist() == [0, 1, 2, 10, 11, 12]
        assert one["domains"].dtype == torch.int64
        assert torch.equal(one["gathered"], together.detach())
        own = slice(number * ROWS, (number + 1) * ROWS)
        torch.testing.assert_close(one["values"], values.grad[own], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one["start"], starts[number].grad, rtol=1e-12, atol=1e-12)
