"""Encode a corpus, killed at random times and started again, and compare with a run left alone.

    python experiments/evaluation_at_scale/killed_encoding.py --folder /tmp/killed_encoding

Passages of made-up words and a small untrained model are made first. Every start is a process of
its own, which reads the corpus as `stage=evaluate` does, encodes what is missing and searches.
Prints JSON; the folder stays.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tdro_lightning.assembly.evaluate import dense_retriever
from tdro_lightning.evaluation.benchmark import build_retrieval_set
from tdro_lightning.evaluation.evaluate import prepare_search
from tdro_lightning.evaluation.sets.beir import beir_corpus, beir_questions
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.tiny import build_tiny_model
from tdro_lightning.search.encoding import SHARD_TEXTS

DEPTH = 100
SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "sa", "ti", "vo", "pe", "da", "gu", "ri", "fe", "no")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Make the corpus, let one run end, kill others, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", help="one run that ends, into this folder below --folder")
    given = parser.parse_args(arguments)
    if given.alone:
        return run(given.folder, given.alone)
    random = np.random.default_rng(given.seed)
    words = make_set(given.folder / "set", given.passages, given.queries, random)
    sizes = {"vocabulary": 4000, "width": 128, "layers": 1, "heads": 2}
    build_tiny_model([" ".join(words)], given.folder / "model", seed=given.seed, **sizes)
    whole = follow(given.folder, "whole", None, random)
    shards = -(-given.passages // SHARD_TEXTS)
    ends = sorted(int(n) for n in random.choice(range(1, shards), given.kills, replace=False))
    starts = [follow(given.folder, "killed", end, random) for end in (*ends, None)]
    result = {
        "passages": given.passages,
        "shards": shards,
        "uninterrupted": whole,
        "killed": starts,
        **compared(given.folder),
    }
    print(json.dumps(result, indent=2))
    return result


def make_set(folder: Path, passages: int, queries: int, random: np.random.Generator) -> list[str]:
    """Write a set in BEIR's layout and return its 4,000 words; frequent ones are much so."""
    (folder / "qrels").mkdir(parents=True)
    words = ["".join(random.choice(SYLLABLES, random.integers(2, 5))) for _ in range(4000)]
    with (folder / "corpus.jsonl").open("w") as stream:
        for start in range(0, passages, 10_000):
            count = min(10_000, passages - start)
            lengths = random.integers(5, 20, count)
            drawn = iter(np.minimum(random.zipf(1.3, lengths.sum()), 4000) - 1)
            for i, length in enumerate(lengths):
                text = " ".join(words[next(drawn)] for _ in range(length))
                stream.write(json.dumps({"_id": f"d{start + i}", "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w") as stream:
        for i in range(queries):
            text = " ".join(random.choice(words, 6))
            stream.write(json.dumps({"_id": f"q{i}", "text": text}) + "\n")
    rows = "".join(f"q{i}\td{i}\t1\n" for i in range(queries))
    (folder / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return words


def run(folder: Path, name: str) -> dict[str, Any]:
    """One start that ends: encode what is missing, search, and write what was found."""
    place = folder / "set"
    one = build_retrieval_set("made", beir_corpus(place), beir_questions(place, "test"))
    options = {"pooling": "mean", "query_tokens": 32, "passage_tokens": 64, "chunk_tokens": 8192}
    retriever = dense_retriever(load_encoder(str(folder / "model"), **options))
    scores, indices = prepare_search(retriever, one, folder / name)(DEPTH)
    np.savez(folder / f"{name}.npz", scores=scores, indices=indices)
    return {}


def follow(
    folder: Path, name: str, shards: int | None, random: np.random.Generator
) -> dict[str, Any]:
    """Start a run, and kill it some time after it has so many shards; None lets it end."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "tables")}
    command = [sys.executable, __file__, f"--folder={folder}", f"--alone={name}"]
    found = len(encoded(folder, name))
    began, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None:
        peak = max(peak, gibibytes(process.pid))
        if shards is not None and len(encoded(folder, name)) >= shards:
            time.sleep(random.random())
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.1)
    if (process.returncode == 0) != (shards is None):
        raise RuntimeError(f"a run ended with {process.returncode}")
    seconds = round(time.monotonic() - began, 1)
    added = len(encoded(folder, name)) - found
    return {"encoded shards": added, "seconds": seconds, "peak GiB": round(peak, 2)}


def encoded(folder: Path, name: str) -> list[Path]:
    """The corpus's shards that are there."""
    return sorted(folder.glob(f"{name}/documents/*/*.npy"))


def gibibytes(process: int) -> float:
    """The most memory that a process has had so far, pages of mapped files among it."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except ProcessLookupError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 2**20 if found else 0


def compared(folder: Path) -> dict[str, Any]:
    """Whether both runs made the same embeddings and found the same documents."""
    whole, killed = (np.load(folder / f"{name}.npz") for name in ("whole", "killed"))
    pairs = list(zip(encoded(folder, "whole"), encoded(folder, "killed"), strict=True))
    return {
        "dtype": str(np.load(pairs[0][0], mmap_mode="r").dtype),
        "equal shards": sum(a.read_bytes() == b.read_bytes() for a, b in pairs),
        "equal documents": bool((whole["indices"] == killed["indices"]).all()),
        "equal scores": bool((whole["scores"] == killed["scores"]).all()),
    }


if __name__ == "__main__":
    main()
