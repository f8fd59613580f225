"""A mixture in the formats of other trainers: lists of files, of sources, or of probabilities.

A training of `steps` batches is one epoch there. A domain of which it draws more rows than there
are is listed once for each whole pass, so that no batch holds a row twice.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tdro_lightning.data.domains import Domain
from tdro_lightning.data.example import Row, passage_text
from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.data.randomness import choose_rows, generator
from tdro_lightning.dro.mixture_file import MixtureFile
from tdro_lightning.files import write_json, write_text
from tdro_lightning.models.templates import Templates

logger = logging.getLogger(__name__)


def count_rows(content: MixtureFile) -> dict[str, tuple[int, int]]:
    """Whole passes over each domain that is not left out, and rows of a further, partial one.

    Together they are `batch_size * steps` rows, shared by the method of largest remainders.
    """
    shares = {name: p for name, p in content.probability.items() if p > 0}
    total = content.batch_size * content.steps
    exact = {name: p * total for name, p in shares.items()}
    rows = {name: math.floor(count) for name, count in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (rows[name] - exact[name], name))
    for name in by_remainder[: total - sum(rows.values())]:
        rows[name] += 1
    return {name: divmod(count, content.shares[name].rows) for name, count in rows.items()}


def write_flag_embedding(
    content: MixtureFile, domains: Sequence[Domain], templates: Templates, folder: Path
) -> None:
    """Files of FlagEmbedding in a folder, and `train_data.txt`: what its `--train_data` takes.

    Its `--same_dataset_within_batch True` makes batches of one file.
    """
    listed, counts = [], count_rows(content)
    for domain in domains:
        passes, rest = counts.get(domain.name, (0, 0))
        whole, part = (folder / f"{domain.name}.{kind}.jsonl" for kind in ("all", "part"))
        if passes:
            write_rows(
                whole, _texts(domain, templates, content.seed, range(len(domain)), "pos", "neg")
            )
        if rest:
            chosen = choose_rows(domain.name, len(domain), rest).tolist()
            write_rows(part, _texts(domain, templates, content.seed, chosen, "pos", "neg"))
        listed += [str(whole)] * passes + [str(part)] * bool(rest)
    write_text(folder / "train_data.txt", "".join(f"{path}\n" for path in listed))


def write_nemo_automodel(
    content: MixtureFile, domains: Sequence[Domain], templates: Templates, folder: Path
) -> None:
    """Inline JSONL of NeMo Automodel in a folder, and `data_dir_list.yaml` for its dataset."""
    sources: list[dict[str, Any]] = []
    counts = count_rows(content)
    for domain in domains:
        passes, rest = counts.get(domain.name, (0, 0))
        if not passes and not rest:
            continue
        path = folder / f"{domain.name}.jsonl"
        rows = _texts(domain, templates, content.seed, range(len(domain)), "pos_doc", "neg_doc")
        write_rows(path, rows)
        sources += [{"path": str(path)}] * passes
        sources += [{"path": str(path), "num_samples": rest}] * bool(rest)
    text = yaml.safe_dump({"data_dir_list": [dict(one) for one in sources]}, sort_keys=False)
    write_text(folder / "data_dir_list.yaml", text)


def write_interleave_datasets(
    content: MixtureFile, domains: Sequence[Domain], templates: Templates, folder: Path
) -> None:
    """`probabilities.json`: names, and what `datasets.interleave_datasets` takes for them."""
    shares = {name: p for name, p in content.probability.items() if p > 0}
    value = {
        "datasets": list(shares),
        "probabilities": list(shares.values()),
        "seed": content.seed,
        "stopping_strategy": "all_exhausted",
    }
    write_json(folder / "probabilities.json", value)


FORMATS: dict[str, Callable[[MixtureFile, Sequence[Domain], Templates, Path], None]] = {
    "flag_embedding": write_flag_embedding,
    "nemo_automodel": write_nemo_automodel,
    "interleave_datasets": write_interleave_datasets,
}


def _texts(
    domain: Domain,
    templates: Templates,
    seed: int,
    rows: Sequence[int],
    positive: str,
    negative: str,
) -> Iterator[dict[str, Any]]:
    """Rows as texts that a model reads, the query with one of the domain's prompts."""
    logger.info("writing %d rows of %s", len(rows), domain.name)
    read = templates.format_passage
    row: Row
    for number, row in zip(rows, domain.table.select(rows), strict=True):
        drawn = generator(seed, f"prompt {domain.name}", number)
        prompt = domain.prompts[drawn.integers(len(domain.prompts))] if domain.prompts else None
        yield {
            "query": templates.format_query(row["query"], prompt),
            positive: [read(passage_text(passage)) for passage in row["positive_passages"]],
            negative: [read(passage_text(passage)) for passage in row["negative_passages"]],
        }
