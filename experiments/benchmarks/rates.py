"""What a machine does a second, and the seconds that counted kernels need at that."""

import statistics
from typing import Any

import torch
from rounds import seconds

from tdro_lightning.report.tables import Column, Table, cells
from tdro_lightning.training.roofline import Kernel, Rates
from tdro_lightning.training.roofline import seconds as roofline_seconds

SIZES = {"cpu": (1024, 2**25), "cuda": (8192, 2**29)}  # of a matrix's side, and of a copy in values
REPEATS = 7


def measured_rates(device: str, size: tuple[int, int] | None = None) -> Rates:
    """Rates of large matrix products, and of a copy of what no cache holds.

    Args:
        device: `cpu` or `cuda`.
        size: a matrix's side, and the copied float32 values.
    """
    side, values = SIZES[device] if size is None else size
    half, single = (_product(device, dtype, side) for dtype in (torch.bfloat16, torch.float32))
    source = torch.ones(values, device=device)
    target = torch.empty_like(source)
    copied = _median(lambda: target.copy_(source))
    return Rates(half, single, 2 * source.nbytes / copied)


def _product(device: str, dtype: torch.dtype, side: int) -> float:
    factors = torch.ones(2, side, side, device=device, dtype=dtype)
    return 2 * side**3 / _median(lambda: factors[0] @ factors[1])


def _median(work: Any) -> float:
    """Median seconds, after a warm-up."""
    work()
    return statistics.median(seconds(work) for _ in range(REPEATS))


def counted_seconds(kernels: list[Kernel], rates: Rates) -> dict[str, float]:
    """Work of kernels, and the seconds that it needs by FLOPs, by bytes, and kernel by kernel."""
    flops, moved = sum(k.flops for k in kernels), sum(k.bytes for k in kernels)
    return {
        "flops": flops,
        "bytes": moved,
        "flops_seconds": sum(k.flops / (rates.half if k.half else rates.single) for k in kernels),
        "bytes_seconds": moved / rates.memory,
        "roofline_seconds": roofline_seconds(kernels, rates),
    }


def roofline_table(found: dict[str, dict[str, float]], taken: dict[str, list[float]]) -> Table:
    """One row a step: what it does, the seconds that this needs, and its median."""
    columns = (
        Column("step", numeric=False),
        Column("FLOPs", "G"),
        Column("bytes", "GB"),
        Column("by FLOPs", "s"),
        Column("by bytes", "s"),
        Column("kernel by kernel", "s"),
        Column("measured", "s"),
    )

    def shown(name: str, row: dict[str, float]) -> tuple[str, ...]:
        keys = ("flops_seconds", "bytes_seconds", "roofline_seconds")
        return (
            name,
            f"{row['flops'] / 1e9:,.1f}",
            f"{row['bytes'] / 1e9:,.2f}",
            *(f"{row[key]:.3f}" for key in keys),
            f"{statistics.median(taken[name]):.3f}",
        )

    return Table("", "", columns, tuple(cells(shown(*row)) for row in found.items()))
