"""Stage `evaluate`: BM25 and encoders on the evaluation sets of a benchmark."""

from collections.abc import Mapping
from pathlib import Path

from tdro_lightning.evaluation.benchmark import RetrievalSet, load_set
from tdro_lightning.evaluation.evaluate import Dense, Lexical, Retriever, evaluate
from tdro_lightning.retrieval.distributed import rank
from tdro_lightning.retrieval.encoder import Encoder
from tdro_lightning.retrieval.fingerprint import encoder_fingerprint
from tdro_lightning.schema import BenchmarkConfig, Config
from tdro_lightning.stages.console import quiet_libraries
from tdro_lightning.stages.encoders import configured_encoder


def run(config: Config) -> None:
    """Write `metrics.json` and per-query scores."""
    quiet_libraries()
    assert config.evaluate is not None
    assert config.benchmark is not None
    sets = benchmark_sets(config.benchmark)
    retrievers: dict[str, Retriever] = {"bm25": Lexical()} if config.evaluate.bm25 else {}
    for label, path in config.evaluate.encoders.items():
        retrievers[label] = dense(configured_encoder(config, path))
    evaluate_and_print(retrievers, sets, Path(config.run_dir))


def benchmark_sets(benchmark: BenchmarkConfig) -> list[RetrievalSet]:
    """The benchmark's evaluation sets.

    Raises:
        DataError: a file is missing or broken.
    """
    root = Path(benchmark.root)
    return [
        load_set(name, root / entry.folder, entry.split, entry.prompt)
        for name, entry in benchmark.sets.items()
    ]


def dense(encoder: Encoder) -> Dense:
    """An encoder as a retriever, on the process's GPU where there is one."""
    import torch

    fingerprint = encoder_fingerprint(encoder)
    if torch.cuda.is_available():
        encoder = encoder.cuda()
    return Dense(encoder.embed_queries, encoder.embed_passages, fingerprint)


def evaluate_and_print(
    retrievers: Mapping[str, Retriever], sets: list[RetrievalSet], output: Path
) -> None:
    """Evaluate with all processes, write the results, and print one line a retriever."""
    metrics = evaluate(retrievers, sets, output)
    if rank() > 0:
        return
    for label, result in metrics["retrievers"].items():
        scores = ", ".join(f"{n} {100 * s['ndcg@10']:.1f}" for n, s in result["sets"].items())
        average = 100 * result["average"]["ndcg@10"]
        print(f"  {label}: nDCG@10 {average:.1f} on average ({scores})", flush=True)
