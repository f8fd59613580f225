"""Encoders as retrievers, and what retrievers score on evaluation sets."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from tdro_lightning.console.output import tell
from tdro_lightning.distributed.processes import rank
from tdro_lightning.evaluation.benchmark import SetLoaders
from tdro_lightning.evaluation.evaluate import evaluate, main_metric
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.fingerprint import encoder_fingerprint
from tdro_lightning.search.dense import DenseRetriever
from tdro_lightning.search.encoding import Forecast
from tdro_lightning.search.fusion import Fusion
from tdro_lightning.search.inverted import SparseRetriever
from tdro_lightning.search.retriever import Retriever

EncoderRetriever = DenseRetriever | SparseRetriever
WORTH_PRINTING = 60  # seconds of encoding
TITLES = {"ndcg@10": "nDCG@10", "accuracy@10": "Accuracy@10"}  # of main metrics

logger = logging.getLogger(__name__)


def encoder_retriever(encoder: Encoder) -> EncoderRetriever:
    """An encoder as a retriever, on the process's GPU where there is one."""
    return sparse_retriever(encoder) if encoder.sparse else dense_retriever(encoder)


def sparse_retriever(encoder: Encoder) -> SparseRetriever:
    """An encoder of sparse vectors as a retriever; they are searched on the CPU."""
    fingerprint = encoder_fingerprint(encoder)
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    return SparseRetriever(
        encoder.embed_queries,
        encoder.embed_passages,
        fingerprint,
        announce=print_forecast,
        term=encoder.tokenizer.show,
    )


def dense_retriever(
    encoder: Encoder, kind: type[DenseRetriever] = DenseRetriever
) -> DenseRetriever:
    """An encoder of dense vectors as a retriever, on the process's GPU where there is one."""
    fingerprint = encoder_fingerprint(encoder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder.to(device)
    return kind(encoder.embed_queries, encoder.embed_passages, fingerprint, device, print_forecast)


def encoder_retrievers(label: str, encoder: Encoder) -> dict[str, Retriever]:
    """An encoder as a retriever by its label, and one for each of its prefixes, `LABEL (64)`."""
    whole = encoder_retriever(encoder)
    found: dict[str, Retriever] = {label: whole}
    if isinstance(whole, DenseRetriever):
        shorter = (size for size in encoder.head.prefixes if size < encoder.dimensions)
        found |= {f"{label} ({size})": whole.truncated(size) for size in shorter}
    return found


def print_forecast(name: str, forecast: Forecast) -> None:
    """Log what the encoding of a set will take, and print it where that is a minute or more."""
    logger.info("%s: %s", name, forecast)
    if forecast.seconds >= WORTH_PRINTING:
        tell(f"  {name}: {forecast}")


def evaluate_and_print(
    retrievers: Mapping[str, Retriever],
    sets: SetLoaders,
    output: Path,
    kept: Path | None = None,
    fusions: Mapping[str, Fusion] | None = None,
) -> None:
    """Evaluate with all processes, write the results, and print one line a retriever."""
    metrics = evaluate(retrievers, sets, output, kept, fusions)
    if rank() > 0:
        return
    for label, result in metrics["retrievers"].items():
        main = main_metric(result["average"])
        scores = ", ".join(
            f"{name} {100 * scored[main]:.1f}"
            for name, scored in result["sets"].items()
            if main in scored
        )
        average = f"{TITLES[main]} {100 * result['average'][main]:.1f}"
        tell(f"  {label}: {average} on average ({scores})")
