"""Small sets by which an encoder is measured while it trains: nDCG@10, and the loss of rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from tdro_lightning.data.characters import normalise
from tdro_lightning.data.domains import Domain
from tdro_lightning.data.example import Passage, Row, passage_text
from tdro_lightning.distributed.processes import from_first, is_first_process, rank, world_size
from tdro_lightning.errors import DataError, NonFiniteError
from tdro_lightning.evaluation.benchmark import RetrievalSet
from tdro_lightning.evaluation.evaluate import score_set
from tdro_lightning.losses.contrastive import hard_negative_losses
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.sparse_rows import BatchVectors, SparseRows, gather_vectors, whole
from tdro_lightning.models.tokens import Tokens
from tdro_lightning.search.dense import exact_search
from tdro_lightning.search.retriever import Hits

NDCG, LOSS = "ndcg@10", "loss"
AT_ONCE = 256  # sparse queries compared with all documents at a time
DEPTH = 10  # documents ranked for each query
MOST_DOCUMENTS = 50_000  # of a folder; all of them are embedded at every validation


@dataclass(frozen=True)
class DevSet:
    """Queries with the documents that they rank, and the rows whose loss is measured.

    Attributes:
        dataset: the texts, without templates, and the prompt of its queries.
        rows: [R, 2 + N] indices of a row's query, of its positive and of its N negatives; R is 0
            where no loss is measured.
        domain: whose rows they are; None where it is a folder.
        passage_prompt: of the passages of a symmetric domain, where they have one.
    """

    dataset: RetrievalSet
    rows: Tensor
    domain: str | None = None
    passage_prompt: str | None = None

    @property
    def texts(self) -> int:
        """Number of texts that a validation embeds."""
        return len(self.dataset.queries) + len(self.dataset.documents)


def dev_set_of_rows(
    domain: Domain, rows: Sequence[Row], negatives: int, prompt_symmetric_passages: bool = False
) -> DevSet:
    """Held-out rows of a domain, without chance: each query ranks the passages of all rows.

    These are the first positive and the first negatives of each row, every text once. A passage is
    relevant for a query where it is a positive of a row with that query.

    Args:
        domain: of the rows; the first of its prompts is used.
        rows: those held out.
        negatives: of each row; one with fewer repeats them in its loss. 0 leaves out the loss.
        prompt_symmetric_passages: as in `RetrievalDataset`.
    """
    prompt = domain.prompts[0] if domain.prompts else None
    passage_prompt = prompt if domain.symmetric and prompt_symmetric_passages else None
    texts = [[passage_text(passage) for passage in _passages(row, negatives)] for row in rows]
    place = {text: i for i, text in enumerate(dict.fromkeys(t for row in texts for t in row))}
    positives: dict[str, set[str]] = {}
    for row in rows:
        known = positives.setdefault(normalise(row["query"]), set())
        known.update(map(passage_text, row["positive_passages"]))
    dataset = RetrievalSet(
        name=domain.name,
        document_ids=[str(number) for number in place.values()],
        documents=list(place),
        query_ids=tuple(row["query_id"] for row in rows),
        queries=tuple(row["query"] for row in rows),
        qrels={
            row["query_id"]: {
                str(place[text]): 1 for text in positives[normalise(row["query"])] if text in place
            }
            for row in rows
        },
        answers=None,
        prompt=prompt,
        depth=DEPTH,
    )
    indices = [[number, *(place[text] for text in row)] for number, row in enumerate(texts)]
    measured = torch.tensor(indices if negatives else []).long()
    return DevSet(dataset, measured, domain.name, passage_prompt)


def dev_set_of_folder(dataset: RetrievalSet) -> DevSet:
    """An evaluation set whose queries rank all of its documents.

    Args:
        dataset: with judgements.

    Raises:
        DataError: there are too many documents to embed them again and again, or no judgement of a
            relevant one.
    """
    count = len(dataset.documents)
    if count > MOST_DOCUMENTS:
        raise DataError(
            f"the corpus has {count:,} documents, and {MOST_DOCUMENTS:,} at most may be embedded "
            "at every validation; give a folder with a part of them"
        )
    if not any(grade > 0 for judged in dataset.qrels.values() for grade in judged.values()):
        raise DataError("no document is judged relevant, so that nDCG@10 would be 0 at every step")
    ready = replace(
        dataset,
        documents=list(dataset.documents),
        answers=None,
        depth=DEPTH,
    )
    return DevSet(ready, torch.tensor([]).long())


class DevSets:
    """Dev sets in tokens, to measure an encoder by at any step of its training.

    Args:
        sets: one for each domain, or one of a folder.
        encoder: whose tokenizer, templates and limits are used.
        temperature: softmax temperature of the loss.
    """

    def __init__(self, sets: Sequence[DevSet], encoder: Encoder, temperature: float) -> None:
        self.sets, self.temperature = tuple(sets), temperature
        read = encoder.templates
        queries = [
            read.format_query(text, one.dataset.prompt)
            for one in sets
            for text in one.dataset.queries
        ]
        documents = [
            read.format_passage(text, one.passage_prompt)
            for one in sets
            for text in one.dataset.documents
        ]
        sizes = [len(one.dataset.queries) for one in sets]
        sizes += [len(one.dataset.documents) for one in sets]
        self._ends = [*accumulate(sizes)][:-1]
        self._tokens = encoder.tokenizer(queries, encoder.query_tokens).concatenate(
            encoder.tokenizer(documents, encoder.passage_tokens)
        )

    @torch.no_grad()
    def measure(self, encoder: Encoder, device: torch.device) -> dict[str, float]:
        """Metrics of an encoder in eval mode; all processes call it, and get the same values.

        Args:
            encoder: that trains.
            device: where it runs; its shards may lie elsewhere.

        Returns:
            `ndcg@10` and, where rows have negatives, `loss`: means over the sets; of rows also
            those of each domain, as `loss/NAME`.

        Raises:
            NonFiniteError: an embedding holds NaN or infinity.
        """
        vectors = embed_together(encoder, self._tokens, device)
        broken = int((~_finite(vectors)).sum())
        if broken:
            raise NonFiniteError(
                f"{broken} of {len(vectors)} embeddings of the dev set hold NaN or infinity: the "
                "model is lost. Lower optimiser.lr or raise optimiser.warmup_steps, then start "
                "again with trainer.resume=never"
            )
        # One process decides: on another processor a last digit may differ.
        return from_first(self._scores(vectors) if is_first_process() else {})

    def _scores(self, vectors: BatchVectors) -> dict[str, float]:
        parts = vectors.tensor_split(self._ends)
        found: dict[str, list[float]] = {NDCG: [], LOSS: []}
        by_domain: dict[str, float] = {}
        for number, one in enumerate(self.sets):
            queries, documents = parts[number], parts[len(self.sets) + number]
            measured = {NDCG: _mean_ndcg(one.dataset, queries, documents)}
            if len(one.rows):
                passages = documents[one.rows[:, 1:].flatten()]
                losses = hard_negative_losses(queries[one.rows[:, 0]], passages, self.temperature)
                measured[LOSS] = float(losses.double().mean())
            for metric, value in measured.items():
                found[metric].append(value)
                if one.domain is not None:
                    by_domain[f"{metric}/{one.domain}"] = value
        return {metric: fmean(values) for metric, values in found.items() if values} | by_domain


def embed_together(encoder: Encoder, tokens: Tokens, device: torch.device) -> BatchVectors:
    """Vectors [N, D] of N texts, on every process; each of them runs its share, equal texts once.

    A forward pass of a sharded encoder is a collective, so all processes run equally many texts:
    those that would have fewer run some of the others' too.
    """
    rows, places = tokens.distinct
    share = -(-len(rows) // world_size())
    numbers = torch.arange(share) * world_size() + rank()
    own = tokens.chosen(rows[numbers % len(rows)])
    everyone = gather_vectors(encoder.without_gradient(own.to(device)), encoder.sparse)
    if encoder.sparse and isinstance(everyone, Tensor):
        everyone = SparseRows.of(everyone)
    # Text i was run by process i % W, as its text i // W.
    return everyone[places % world_size() * share + places // world_size()]


def _passages(row: Row, negatives: int) -> list[Passage]:
    """The first positive of a row, and so many negatives, repeated where it has fewer."""
    available = row["negative_passages"] if negatives else []
    chosen = [available[i % len(available)] for i in range(negatives if available else 0)]
    return [row["positive_passages"][0], *chosen]


def _search_sparse(queries: csr_matrix, documents: csr_matrix, depth: int) -> Hits:
    """As `exact_search`, of sparse embeddings in memory; those without a value may be compared."""
    found = min(depth, documents.shape[0])
    scores = np.zeros((queries.shape[0], depth), dtype=np.float32)
    indices = np.full(scores.shape, -1, dtype=np.int64)
    for start in range(0, queries.shape[0], AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        every = (queries[rows] @ documents.T).toarray()
        indices[rows, :found] = (-every).argsort(axis=1, kind="stable")[:, :found]
        scores[rows, :found] = np.take_along_axis(every, indices[rows, :found], axis=1)
    return scores, indices


def _finite(vectors: BatchVectors) -> Tensor:
    """[N] whether all values of a vector are finite."""
    if isinstance(vectors, SparseRows):
        ones = torch.ones(vectors.width, dtype=torch.float64, device=vectors.device)
        return vectors.products(ones).isfinite()
    return vectors.isfinite().all(dim=1)


def _mean_ndcg(dataset: RetrievalSet, queries: BatchVectors, documents: BatchVectors) -> float:
    def search(depth: int) -> Hits:
        if isinstance(queries, SparseRows) and isinstance(documents, SparseRows):
            return _search_sparse(queries.csr(), documents.csr(), depth)
        return exact_search(whole(queries).cpu().numpy(), whole(documents).cpu().numpy(), depth)

    scores = score_set(search, dataset)
    return fmean(metrics[NDCG] for metrics in scores.values())
