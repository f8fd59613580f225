"""Time and memory of the sparse head, against a naive one and sentence-transformers' pooling.

    OMP_NUM_THREADS=1 python experiments/benchmarks/sparse_head.py [--tiles 256 1024 4096]

One forward and backward pass over token states of a 1B Llama's size, in float32. The head's weight
is frozen, as under LoRA. Logits get a bias such that about 400 terms of a text are active, as of a
trained model, or all of them, as of an untrained one. Times are taken in turn in one process, and
compared round by round. Memory is the growth of a process of its own in one pass, which includes
the vectors, their gradient and that of the states.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from rounds import growth
from torch import Tensor

from tdro_lightning.models.tiled_max import TILE, sparse_vectors
from tdro_lightning.report.tables import Column, Table, cells, terminal_table

ACTIVE = 400  # terms of a text that a trained model keeps
CASES = ("trained", "untrained")
Vectors = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def naive(states: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Sparse vectors from all logits at once."""
    logits = F.linear(states, weight, bias)
    largest = logits.masked_fill(~mask[..., None], -torch.inf).max(dim=1).values
    return largest.relu().log1p()


def theirs(states: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Sparse vectors by sentence-transformers, in training mode, from all logits at once."""
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    logits = F.linear(states, weight, bias)
    features = {"token_embeddings": logits, "attention_mask": mask}
    return SpladePooling("max").train()(features)["sentence_embedding"]


def ours(tile: int, states: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Sparse vectors tile by tile."""
    return sparse_vectors(states, weight, bias, mask, 1.0, tile)


def contenders(tiles: list[int]) -> dict[str, Vectors]:
    """What is compared, by name."""
    heads: dict[str, Vectors] = {"naive": naive, "sentence-transformers": theirs}
    return heads | {f"tile {tile}": partial(ours, tile) for tile in tiles}


class Inputs:
    """Random states, weight, bias, mask, and the gradient of the vectors.

    Args:
        options: of the command.
        case: of `CASES`.
    """

    def __init__(self, options: argparse.Namespace, case: str) -> None:
        torch.manual_seed(options.seed)
        shape = (options.texts, options.tokens, options.hidden)
        self.weight = torch.randn(options.terms, options.hidden) / options.hidden**0.5
        self.states = torch.randn(shape).requires_grad_()
        self.mask = torch.ones(shape[:2], dtype=torch.bool)
        self.mask[1:, -options.tokens // 8 :] = False
        self.gradient = torch.randn(options.texts, options.terms)
        shift = 10.0  # above every logit
        if case == "trained":
            given = (self.states.detach(), self.weight, None, self.mask)
            largest = sparse_vectors(*given).expm1()  # of the terms that are active
            shift = -float(largest.topk(ACTIVE).values[:, -1].median())
        self.bias = torch.full((options.terms,), shift)

    def run(self, head: Vectors) -> tuple[Tensor, float, float]:
        """One pass: gradient of the states, seconds forward and seconds backward."""
        self.states.grad = None
        began = time.perf_counter()
        vectors = head(self.states, self.weight, self.bias, self.mask)
        between = time.perf_counter()
        vectors.backward(self.gradient)
        ended = time.perf_counter()
        assert self.states.grad is not None
        return self.states.grad, between - began, ended - between


def seconds(
    options: argparse.Namespace, case: str, heads: dict[str, Vectors]
) -> dict[str, list[tuple[float, float]]]:
    """Seconds forward and backward of each contender in each round, after one that warms up.

    Raises:
        AssertionError: they do not compute the same.
    """
    inputs = Inputs(options, case)
    expected = inputs.run(naive)[0]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in heads}
    for turn in range(options.rounds + 1):
        for name, head in heads.items():
            gradient, *taken = inputs.run(head)
            # Where two tokens nearly tie, rounding decides, so that single values may differ.
            assert (gradient - expected).norm() < 1e-2 * expected.norm(), name
            if turn:
                found[name].append((taken[0], taken[1]))
    return found


def main() -> None:
    """Measure all contenders in both cases and print a table of each; or, as a child, memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, value in {"texts": 4, "tokens": 128, "hidden": 2048, "terms": 128_256}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--tiles", type=int, nargs="+", default=[TILE])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    heads = contenders(options.tiles)
    if options.child:
        case, name = options.child
        inputs = Inputs(options, case)
        print(json.dumps(growth(lambda: inputs.run(heads[name]))))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(options)}")
    for case in CASES:
        found = seconds(options, case, heads)
        added = {name: _added(case, name) for name in heads}
        print(terminal_table(_table(case, found, added)), flush=True)


def _added(case: str, name: str) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--child", case, name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _table(
    case: str, found: dict[str, list[tuple[float, float]]], added: dict[str, float]
) -> Table:
    rows = []
    for name, rounds in found.items():
        forward, backward = (statistics.median(part) for part in zip(*rounds, strict=True))
        ratios = [
            [sum(other) / sum(own) for other, own in zip(found[against], rounds, strict=True)]
            for against in ("naive", "sentence-transformers")
        ]
        shown = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios]
        share = f"{added[name] / added['naive']:.3f}"
        rows.append(
            (
                name.replace("sentence-transformers", "theirs"),
                f"{forward:.2f}",
                f"{backward:.3f}",
                *shown,
                f"{added[name]:.0f}",
                share,
            )
        )
    columns = (
        Column("head", numeric=False),
        *(Column("forward", "s"), Column("backward", "s")),
        *(Column("naive / this"), Column("theirs / this")),
        *(Column("adds", "MB"), Column("of the naive")),
    )
    return Table(f"{case}", "", columns, tuple(map(cells, rows)))


if __name__ == "__main__":
    main()
