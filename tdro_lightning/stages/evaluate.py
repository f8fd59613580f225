"""Stage `evaluate`: BM25 and encoders on the evaluation sets of a benchmark."""

from collections.abc import Mapping
from pathlib import Path

from tdro_lightning.evaluation.benchmark import Sets
from tdro_lightning.evaluation.evaluate import Dense, Lexical, Retriever, evaluate, main_metric
from tdro_lightning.retrieval.distributed import rank
from tdro_lightning.retrieval.encoder import Encoder
from tdro_lightning.retrieval.fingerprint import encoder_fingerprint
from tdro_lightning.schema import Config
from tdro_lightning.stages.benchmarks import benchmark_sets
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


def dense(encoder: Encoder) -> Dense:
    """An encoder as a retriever, on the process's GPU where there is one."""
    import torch

    fingerprint = encoder_fingerprint(encoder)
    if torch.cuda.is_available():
        encoder = encoder.cuda()
    return Dense(encoder.embed_queries, encoder.embed_passages, fingerprint)


def evaluate_and_print(retrievers: Mapping[str, Retriever], sets: Sets, output: Path) -> None:
    """Evaluate with all processes, write the results, and print one line a retriever."""
    metrics = evaluate(retrievers, sets, output)
    if rank() > 0:
        return
    for label, result in metrics["retrievers"].items():
        main = main_metric(result["average"])
        by_set = {n: s[main] for n, s in result["sets"].items() if main in s}
        scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in by_set.items())
        title = {"ndcg@10": "nDCG@10", "accuracy@10": "Accuracy@10"}[main]
        average = 100 * result["average"][main]
        print(f"  {label}: {title} {average:.1f} on average ({scores})", flush=True)
