"""The configured domains without what the benchmark asks and shows."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from tdro_lightning.config.benchmarks import benchmark_sets
from tdro_lightning.config.schema import BenchmarkConfig, Config, DecontaminateConfig
from tdro_lightning.console.libraries import quiet_libraries
from tdro_lightning.console.output import tell
from tdro_lightning.data.domain_files import chosen_domains
from tdro_lightning.data.domains import open_domain
from tdro_lightning.decontamination.evaluation_index import EvaluationIndex, EvaluationText
from tdro_lightning.decontamination.row_filter import filter_rows
from tdro_lightning.errors import ConfigError
from tdro_lightning.evaluation.benchmark import RetrievalSet
from tdro_lightning.files import write_json, write_text
from tdro_lightning.records.receipts import finished_result, write_receipt
from tdro_lightning.report.preparation import contamination_tables
from tdro_lightning.report.tables import markdown_table, terminal_table
from tdro_lightning.runs.inputs import domains_root

FORMAT = 1  # another number where equal rows and settings give another result


class Evaluation:
    """The benchmark's texts; their index is built when the first domain needs it."""

    def __init__(self, sets: Iterable[RetrievalSet], settings: DecontaminateConfig) -> None:
        self.texts = evaluation_texts(sets, settings.documents)
        self._settings = settings

    @cached_property
    def index(self) -> EvaluationIndex:
        """All texts, ready to be compared."""
        return EvaluationIndex(self.texts, self._settings.simhash_distance, self._settings.jaccard)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the texts and of how they are compared."""
        digest = hashlib.sha256(json.dumps(asdict(self._settings)).encode())
        for text in self.texts:
            digest.update(json.dumps([text.set, text.kind, text.id, text.text]).encode())
        return digest.hexdigest()


def decontaminate_configured(
    config: Config, settings: DecontaminateConfig, benchmark: BenchmarkConfig
) -> None:
    """Write the cleaned domains, every dropped text, and what came of each domain and set."""
    quiet_libraries()
    output = Path(config.run_dir)
    sets = (load() for load in benchmark_sets(benchmark).values())
    evaluation = Evaluation(sets, settings)
    counted = Counter((text.set, text.kind) for text in evaluation.texts)
    names = chosen_domains(config.domains.catalogue, config.domains.only)
    content = {
        "settings": asdict(settings),
        "evaluation": {
            name: {"queries": counted[name, "query"], "documents": counted[name, "document"]}
            for name in dict.fromkeys(text.set for text in evaluation.texts)
        },
        "domains": {name: _domain(config, name, evaluation, output) for name in names},
    }
    write_json(output / "decontamination.json", content)
    tables = contamination_tables(content)
    pages = [f"## {table.title}\n\n{table.caption}\n\n{markdown_table(table)}" for table in tables]
    write_text(output / "decontamination.md", "\n\n".join(pages) + "\n")
    tell(terminal_table(tables[0]))
    tell(f"Report: {output / 'decontamination.md'}; every dropped text: {output / 'dropped'}")
    tell(f"Train on the rest: domains.root={output / 'train'} domains.hub=null")


def evaluation_texts(sets: Iterable[RetrievalSet], documents: str) -> list[EvaluationText]:
    """The judged queries of all sets, and all their documents or those judged relevant."""
    texts = []
    for judged_set in sets:
        relevant = {
            id_
            for grades in judged_set.qrels.values()
            for id_, grade in grades.items()
            if grade > 0
        }
        texts += [
            EvaluationText(judged_set.name, "query", id_, text)
            for id_, text in zip(judged_set.query_ids, judged_set.queries, strict=True)
        ]
        texts += [
            EvaluationText(judged_set.name, "document", id_, text)
            for id_, text in zip(judged_set.document_ids, judged_set.documents, strict=True)
            if documents == "all" or id_ in relevant
        ]
    return texts


def _domain(config: Config, name: str, evaluation: Evaluation, output: Path) -> dict[str, Any]:
    """Counts of a domain that is cleaned now, or was before from the same rows and evaluation."""
    root, hub, file = domains_root(config), config.domains.hub, config.domains.catalogue[name].file
    clean, dropped = output / "train" / file, output / "dropped" / f"{name}.jsonl.gz"
    if hub is None and clean.resolve() == (Path(root) / file).resolve():
        raise ConfigError(
            f"run_dir={output}: {clean} would be written over; choose another run_dir"
        )
    content, rows = open_domain(file, root, hub)
    made_from = {"rows": content, "evaluation": evaluation.fingerprint, "format": FORMAT}
    record = output / "domains" / f"{name}.json"
    before = finished_result(record, made_from)
    if before is not None:
        tell(f"  {name}: finished before, rows and evaluation unchanged")
        return before
    counts = filter_rows(rows, evaluation.index, clean, dropped)
    write_receipt(record, made_from, [clean, dropped], counts)
    tell(f"  {name}: {counts['kept']} of {counts['rows']} rows kept")
    return counts
