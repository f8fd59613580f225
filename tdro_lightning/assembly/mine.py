"""Hard negatives for every domain file of a folder, as configured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tdro_lightning.assembly.encoders import configured_encoder
from tdro_lightning.assembly.evaluate import (
    EncoderRetriever,
    dense_retriever,
    encoder_retriever,
)
from tdro_lightning.config.constraints import mining_rule
from tdro_lightning.config.schema import Config, MineConfig
from tdro_lightning.console.libraries import quiet_libraries
from tdro_lightning.console.output import tell
from tdro_lightning.data.domain_files import domain_files, domain_name
from tdro_lightning.data.jsonl import read_rows
from tdro_lightning.distributed.processes import from_first, is_first_process
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.files import fingerprint, remove_path, write_json
from tdro_lightning.mining.miner import Miner
from tdro_lightning.mining.parts import mine_in_parts
from tdro_lightning.mining.pool import (
    PairScorer,
    Pool,
    PoolRanker,
    corpus_pool,
    domain_pool,
    index_pool,
)
from tdro_lightning.models.cross_encoder import (
    CrossEncoder,
    is_cross_encoder,
    load_cross_encoder,
)
from tdro_lightning.records.receipts import finished_result, write_receipt
from tdro_lightning.report.preparation import mining_table
from tdro_lightning.report.tables import terminal_table
from tdro_lightning.search.bm25 import BM25Retriever
from tdro_lightning.search.ivf import IVFRetriever
from tdro_lightning.search.retriever import Index, Retriever

FORMAT = 1  # another number where equal settings mine other rows: a release alone redoes nothing
WORK = "unfinished"  # embeddings and parts of what is not finished


@dataclass(frozen=True)
class Tools:
    """What the domains are mined with, and how; they share the passages of a corpus.

    Attributes:
        settings: as configured.
        retriever: finds candidates.
        teacher: scores them, where there is one.
        corpus: SHA-256 of the corpus; None where each domain's own passages are searched.
        work: folder of what is not finished.
    """

    settings: MineConfig
    retriever: Retriever
    teacher: EncoderRetriever | CrossEncoder | None
    corpus: str | None
    work: Path

    @cached_property
    def shared_pool(self) -> Pool | None:
        """The corpus's passages, read when the first domain needs them."""
        path = self.settings.corpus
        return corpus_pool(Path(path), self.corpus) if path and self.corpus else None

    @cached_property
    def shared_index(self) -> Index | None:
        """The corpus, ready to be searched."""
        pool = self.shared_pool
        return (
            index_pool(self.retriever, pool, self.work / "corpus", "the corpus") if pool else None
        )


def mine(config: Config, settings: MineConfig) -> None:
    """Write the rows with mined negatives to `train/`, and what came of each domain."""
    quiet_libraries()
    output = Path(config.run_dir)
    tools = _tools(config, settings, output / WORK)
    domains = {
        name: _domain(config, name, path, tools)
        for name, path in domain_files(Path(settings.input)).items()
    }
    if is_first_process():
        content = {"settings": asdict(settings), "seed": config.seed, "domains": domains}
        write_json(output / "mining.json", content)
        remove_path(output / WORK)
        tell(terminal_table(mining_table(content)))


def _tools(config: Config, settings: MineConfig, work: Path) -> Tools:
    retriever: Retriever = BM25Retriever()
    if settings.encoder is not None:
        encoder = configured_encoder(config, settings.encoder)
        if settings.index == "ivf":
            if encoder.sparse:
                raise ConfigError(
                    f"mine.index=ivf is for dense vectors, and mine.encoder={settings.encoder} "
                    "makes sparse ones; use mine.index=exact"
                )
            retriever = dense_retriever(encoder, IVFRetriever)
        else:
            retriever = encoder_retriever(encoder)
    corpus = None if settings.corpus is None else fingerprint(Path(settings.corpus))
    return Tools(settings, retriever, _teacher(config, settings.teacher), corpus, work)


def _teacher(config: Config, path: str | None) -> EncoderRetriever | CrossEncoder | None:
    if path is None:
        return None
    if not is_cross_encoder(path):
        return encoder_retriever(configured_encoder(config, path))
    return load_cross_encoder(
        path,
        max_tokens=config.data.query_tokens + config.data.passage_tokens,
        dtype=config.model.dtype,
        chunk_tokens=config.trainer.chunk_tokens,
    )


def _domain(config: Config, name: str, path: Path, tools: Tools) -> dict[str, int]:
    """Counts of a domain that is mined now, or was before from the same rows in the same way."""
    output = Path(config.run_dir)
    target = output / "train" / f"{name}.jsonl.gz"
    if target.resolve() == path.resolve():
        raise ConfigError(f"run_dir={output}: {path} would be written over; choose another run_dir")
    made_from = _made_from(config, name, path, tools)
    record = output / "domains" / f"{name}.json"
    before = from_first(finished_result(record, made_from) if is_first_process() else None)
    if before is not None:
        tell(f"  {name}: finished before, rows and settings unchanged")
        return before
    work = tools.work / "domains" / name
    try:
        counts = _mined(config, path, tools, target, work, made_from)
    except DataError as error:
        message = str(error)
        raise DataError(message if str(path) in message else f"{path}: {message}") from None
    if is_first_process():
        write_receipt(record, made_from, [target], counts)
        remove_path(work)
    tell(f"  {name}: {counts['rows']} rows mined")
    return counts


def _made_from(config: Config, name: str, path: Path, tools: Tools) -> dict[str, Any]:
    """Everything that the mined rows of a domain depend on.

    Raises:
        ConfigError: an encoder needs the domain's prompt, and the catalogue does not have it.
    """
    prompted = any(isinstance(t, EncoderRetriever) for t in (tools.retriever, tools.teacher))
    return {
        "rows": fingerprint(path),
        "corpus": tools.corpus,
        "retriever": tools.retriever.fingerprint,
        "index": tools.settings.index,
        "teacher": tools.teacher.fingerprint if tools.teacher else None,
        "prompt": _prompt(config, name) if prompted else None,
        "rule": asdict(mining_rule(tools.settings)),
        "seed": config.seed,
        "format": FORMAT,
    }


def _prompt(config: Config, name: str) -> str | None:
    """The first prompt of the domain whose file this is."""
    prompts = {
        domain_name(Path(entry.file)): entry.prompts for entry in config.domains.catalogue.values()
    }
    if name not in prompts:
        raise ConfigError(
            f"{name} is no file of domains.catalogue, which gives an encoder the queries' prompt; "
            f"it has {', '.join(prompts)}"
        )
    return next(iter(prompts[name]), None)


def _mined(
    config: Config, path: Path, tools: Tools, target: Path, work: Path, made_from: dict[str, Any]
) -> dict[str, int]:
    rows = [row for _, row in read_rows(path)]
    if not rows:
        raise DataError("no rows to mine negatives for")
    queries, prompt = [row["query"] for row in rows], made_from["prompt"]
    pool = tools.shared_pool or domain_pool(rows)
    index = tools.shared_index or index_pool(tools.retriever, pool, work, path.name)
    miner = Miner(
        rows,
        pool,
        PoolRanker(index, tools.retriever.encode_queries(queries, prompt, work, path.name)),
        mining_rule(tools.settings),
        config.seed,
        _scorer(tools, pool, queries, prompt, work / "teacher"),
    )
    counts = mine_in_parts(miner, target, work / "parts", made_from)
    return {"pool": len(pool.texts), "pool_left_out": pool.left_out} | counts


def _scorer(
    tools: Tools, pool: Pool, queries: Sequence[str], prompt: str | None, folder: Path
) -> PairScorer | None:
    """The teacher with the queries; of a corpus it embeds only what it is asked to score."""
    teacher = tools.teacher
    if teacher is None:
        return None
    if isinstance(teacher, CrossEncoder):
        return PairScorer(teacher, np.array(queries, dtype=object))
    documents = teacher.scorer() if tools.corpus else index_pool(teacher, pool, folder)
    return PairScorer(documents, teacher.encode_queries(queries, prompt, folder))
