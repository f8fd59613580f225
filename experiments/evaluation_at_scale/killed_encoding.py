"""Encode a corpus, killed at random times and started again, and compare with a run left alone.

    python experiments/evaluation_at_scale/killed_encoding.py --folder /tmp/killed_encoding
    python experiments/evaluation_at_scale/killed_encoding.py --folder /tmp/killed_sparse \\
        --sparse --passages 20000 --shard-texts 512 --queries 50 --kills 20 --search-kills 20

Passages of made-up words and a small untrained model are made first. Every start is a process of
its own, which reads the corpus as `stage=evaluate` does, encodes what is missing and searches.
With `--search-kills` starts are killed at any moment after all is encoded, too. Prints JSON; the
folder stays.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tdro_lightning.assembly.evaluate import encoder_retriever
from tdro_lightning.evaluation.benchmark import build_retrieval_set
from tdro_lightning.evaluation.evaluate import prepare_search
from tdro_lightning.evaluation.sets.beir import beir_corpus, beir_questions
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
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
    parser.add_argument("--search-kills", type=int, default=0, help="and so many when encoded")
    parser.add_argument("--sparse", action="store_true", help="sparse vectors, inverted index")
    parser.add_argument("--shard-texts", type=int, default=SHARD_TEXTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", help="one run that ends, into this folder below --folder")
    given = parser.parse_args(arguments)
    if given.alone:
        return run(given)
    random = np.random.default_rng(given.seed)
    words = make_set(given.folder / "set", given.passages, given.queries, random)
    sizes = {"vocabulary": 4000, "width": 128, "layers": 1, "heads": 2}
    build_tiny_model([" ".join(words)], given.folder / "model", seed=given.seed, **sizes)
    if given.sparse:
        config = given.folder / "model/config.json"  # its embedding becomes its head, too
        tied = {"architectures": None, "tie_word_embeddings": True}
        config.write_text(json.dumps(json.loads(config.read_text()) | tied))
    whole = follow(given, "whole", None, random)
    shards = -(-given.passages // given.shard_texts)
    ends = sorted(int(n) for n in random.choice(range(1, shards), given.kills, replace=False))
    starts = [follow(given, "killed", end, random) for end in ends]
    searches: list[dict[str, Any]] = []
    if given.search_kills:
        starts.append(follow(given, "killed", shards, random))
        longest = follow(given, "whole", None, random)["seconds"]
        while len(searches) < given.search_kills:  # a start may end before its moment comes
            start = follow(given, "killed", None, random, longest * random.random())
            searches += [start] if start["killed"] else []
    starts.append(follow(given, "killed", None, random))
    result = {
        "passages": given.passages,
        "shards": shards,
        "uninterrupted": whole,
        "killed": starts,
        **({"killed in search": searches} if searches else {}),
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


def run(given: argparse.Namespace) -> dict[str, Any]:
    """One start that ends: encode what is missing, search, and write what was found."""
    folder, name, place = given.folder, given.alone, given.folder / "set"
    one = build_retrieval_set("made", beir_corpus(place), beir_questions(place, "test"))
    options: dict[str, Any] = {"query_tokens": 32, "passage_tokens": 64, "chunk_tokens": 8192}
    shape = SparseShape("quarter") if given.sparse else None
    encoder = load_encoder(str(folder / "model"), pooling="mean", sparse=shape, **options)
    retriever = replace(encoder_retriever(encoder), shard_texts=given.shard_texts)
    scores, indices = prepare_search(retriever, one, folder / name)(DEPTH)
    np.savez(folder / f"{name}.npz", scores=scores, indices=indices)
    return {}


def follow(
    given: argparse.Namespace,
    name: str,
    shards: int | None,
    random: np.random.Generator,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Start a run, and kill it.

    Args:
        given: the options.
        name: of the run.
        shards: it is killed some time after it has so many, unless it has ended.
        random: says how long after.
        seconds: it is killed after so long, unless it has ended; where neither is given, it ends.
    """
    folder = given.folder
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "tables")}
    command = [sys.executable, __file__, f"--folder={folder}", f"--alone={name}"]
    command += [f"--shard-texts={given.shard_texts}", *(["--sparse"] if given.sparse else [])]
    found = len(encoded(folder, name))
    began, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None:
        peak = max(peak, gibibytes(process.pid))
        late = seconds is not None and time.monotonic() - began >= seconds
        enough = shards is not None and len(encoded(folder, name)) >= shards
        if late or enough:
            time.sleep(random.random() if enough else 0)
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.1)
    killed = process.returncode == -signal.SIGKILL
    if process.returncode and not killed:
        raise RuntimeError(f"a run ended with {process.returncode}")
    lasted = round(time.monotonic() - began, 1)
    added = len(encoded(folder, name)) - found
    lasting = {"encoded shards": added, "seconds": lasted, "peak GiB": round(peak, 2)}
    return {"killed": killed} | lasting


def encoded(folder: Path, name: str) -> list[Path]:
    """The corpus's shards that are there."""
    found = folder.glob(f"{name}/documents/*/*")
    return sorted(path for path in found if path.suffix in (".npy", ".csr"))


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
    files = [
        {p.relative_to(folder / name): p for p in (folder / name).rglob("*") if p.suffix != ".tmp"}
        for name in ("whole", "killed")
    ]
    shards = {path.relative_to(folder / "whole") for path in encoded(folder, "whole")}
    same = {
        path
        for path in files[0].keys() & files[1].keys()
        if files[0][path].is_file() and files[0][path].read_bytes() == files[1][path].read_bytes()
    }
    blocks = {path for path in files[0] if path.suffix == ".csc"}
    one = encoded(folder, "whole")[0]
    return {
        **({"dtype": str(np.load(one, mmap_mode="r").dtype)} if one.suffix == ".npy" else {}),
        "equal shards": len(shards & same),
        **({"blocks": len(blocks), "equal blocks": len(blocks & same)} if blocks else {}),
        "left over": len([*(folder / "killed").rglob("*.tmp")]),
        "files in one of them": sorted(map(str, files[0].keys() ^ files[1].keys())),
        "equal documents": bool((whole["indices"] == killed["indices"]).all()),
        "equal scores": bool((whole["scores"] == killed["scores"]).all()),
    }


if __name__ == "__main__":
    main()
