"""A fine-tuning step on rows whose passages repeat as real ones do, here and at another commit.

    python experiments/benchmarks/repeated_rows.py OTHER DATA [--characters 27] [--rounds 3]

OTHER is a checkout of the other commit, DATA a folder with `arcd.jsonl.gz` and `agnews.jsonl.gz`.
Both run in processes of their own, one after the other in every round. A batch has 512 rows with 7
hard negatives. Each different text of the rows becomes a made-up one, with a token for so many
characters: so texts repeat as they do there, and keep the proportions of their lengths, in a
length that a CPU gets through. Printed are the seconds of a step, and of making the batch's tokens.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
ROWS, NEGATIVES = 512, 7
SETS = ("arcd", "agnews")
MODELS = {"small": "small.yaml", "MiniLM": "minilm.yaml"}


def main() -> None:
    """Measure both in turn and print the ratios; or, as a child, measure one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--characters", type=int, default=27, help="of a token")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, model = options.child.split()
        print(json.dumps(measured(options.data / f"{name}.jsonl.gz", model, options)))
        return
    for model in options.models:
        for name in options.sets:
            found = [
                {tree: _child(tree, f"{name} {model}") for tree in (options.other, HERE)}
                for _ in range(options.rounds)
            ]
            for part in ("step", "tokens"):
                then, now = ([turn[tree][part] for turn in found] for tree in (options.other, HERE))
                ratios = [a / b for a, b in zip(then, now, strict=True)]
                print(
                    f"{model}, {name}, {part}: other {statistics.median(then):.3f} s, this "
                    f"{statistics.median(now):.3f} s, other / this {statistics.median(ratios):.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f})",
                    flush=True,
                )


def measured(file: Path, model: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a second step, and of making its batch; the tree is that of the working folder."""
    sys.path[:0] = [str(Path("experiments/benchmarks").resolve()), str(Path.cwd())]
    import torch
    import workbench
    from bench import DEFAULTS

    from tdro_lightning.data.example import Example

    torch.set_num_threads(1)
    defaults: dict[str, Any] = dict.fromkeys(workbench.Choice.__dataclass_fields__)
    shape = str(HERE / "experiments/benchmarks" / MODELS[model])
    chosen = DEFAULTS["cpu"] | {"device": "cpu", "model": shape, "lora": False, "seed": 0}
    choice = workbench.Choice(**{k: chosen.get(k) for k in defaults})
    bench = workbench.Workbench(choice, Path(os.environ["TMPDIR"]))
    made = _made_up(_rows(file), bench.words, options.characters)
    rows = [Example(0, str(i), query, passages) for i, (query, passages) in enumerate(made)]
    began = time.perf_counter()
    batch = bench.batch(rows)
    tokens = time.perf_counter() - began
    module = bench.finetune(bench.settings("finetune"))
    case = workbench.Case(batches={"step": [batch] * 2}, module=module)
    return {"step": bench.seconds(case, 2, ["step"])["step"][-1], "tokens": tokens}


def _rows(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for _, line in zip(range(ROWS), stream, strict=False)]


def _made_up(
    rows: list[dict[str, Any]], words: list[str], characters: int
) -> list[tuple[str, tuple[str, ...]]]:
    """Query and passages of each row; equal texts stay equal, different ones different."""
    import numpy as np
    from texts import texts

    random, known, used = np.random.default_rng(0), {}, set()

    def made(text: str) -> str:
        tokens = max(3, round(len(text) / characters))
        while text not in known:
            (candidate,) = texts(random, words, np.array([tokens]))
            if candidate not in used:
                known[text] = candidate
                used.add(candidate)
        return known[text]

    found = []
    for row in rows:
        negatives = row["negative_passages"]
        chosen = [row["positive_passages"][0]]
        chosen += [negatives[i % len(negatives)] for i in range(NEGATIVES)]
        passages = (f"{p.get('title', '')} {p['text']}".strip() for p in chosen)
        found.append((made(row["query"]), tuple(map(made, passages))))
    return found


def _child(tree: Path, what: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], f"--child={what}"]
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1"}
    environment.setdefault("TMPDIR", "/tmp")
    done = subprocess.run(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
