"""The model card of an export: how to load it, what it was trained on, how well it does."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from tdro_lightning.dro.transfer import RULES
from tdro_lightning.export.folder import prompt_prefixes
from tdro_lightning.export.lineage import Scores, Training
from tdro_lightning.export.mteb_results import prompt_name, task_name
from tdro_lightning.export.proof import ReaderCheck, Sample
from tdro_lightning.report.results import TITLES
from tdro_lightning.report.tables import (
    NOTHING,
    Column,
    Table,
    cells,
    markdown_text,
    plain_text,
    template_environment,
)


@dataclass(frozen=True)
class ModelDescription:
    """What a card describes.

    Attributes:
        title: name of the model.
        base: hub name of the base model, None for a model from a local folder.
        adapter_base: base model of the adapter, as seen from the export's folder; None without an
            adapter.
        prompts: instruction of the queries by the name that `encode` takes, None for none.
        sample: with pooling, token limits and embeddings.
        training: the run that made the model, where it is known.
        scores: of an evaluation of the model, where there is one.
    """

    title: str
    base: str | None
    adapter_base: str | None
    prompts: Mapping[str, str | None]
    sample: Sample
    training: Training | None
    scores: Scores | None


def model_card(model: ModelDescription, checks: Sequence[ReaderCheck]) -> str:
    """The card in Markdown, with the header that the hub reads."""
    sample, training, scores = model.sample, model.training, model.scores
    kinds = ["sparse-encoder", "sparse"] if sample.sparse else ["feature-extraction"]
    kinds += [] if sample.sparse else ["dense-retrieval"]
    header = ModelCardData(
        base_model=model.base,
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction" if sample.sparse else "sentence-similarity",
        tags=["sentence-transformers", *kinds, "tdro"],
        model_name=model.title,
        eval_results=_eval_results(scores) if scores else None,
    )
    templates = template_environment(Path(__file__).parent)
    templates.filters["code"] = lambda text: plain_text(text).replace("`", "'")
    # Three backticks would end the block of code that the literal is part of.
    templates.filters["python"] = lambda text: repr(text).replace("`", "\\x60")
    return templates.get_template("card.md.j2").render(
        header=header.to_yaml().strip(),
        title=model.title,
        base=model.base,
        adapter=model.adapter_base is not None,
        adapter_base=model.adapter_base,
        pooling=sample.pooling,
        plain=sample.plain,
        sparse=sample.sparse,
        reader="SparseEncoder" if sample.sparse else "SentenceTransformer",
        width=sample.vectors["queries"].shape[1],
        query_tokens=sample.query_tokens,
        passage_tokens=sample.passage_tokens,
        templates=prompt_prefixes(sample.templates, model.prompts),
        prompts=_prompts(model),
        rule=RULES[training.transfer["rule"]].meaning if training else None,
        mix=_mix(training) if training else None,
        settings=_settings(training) if training else None,
        label=scores.label if scores else None,
        scores=_scores(scores) if scores else None,
        checks=_checks(checks),
        texts=len(sample.queries) + len(sample.documents),
    )


def adapter_card(model: ModelDescription) -> str:
    """The card of the adapter's folder, in place of the empty form that PEFT writes."""
    data = ModelCardData(base_model=model.base, library_name="peft", tags=["lora", "tdro"])
    return (
        f"---\n{data.to_yaml().strip()}\n---\n\n# {markdown_text(model.title)}, the adapter\n\n"
        "Its model card, with the code that loads it, is in the folder above.\n"
    )


def _eval_results(scores: Scores) -> list[EvalResult]:
    sets = scores.benchmark["sets"]
    return [
        EvalResult(
            task_type="Retrieval",
            dataset_type=sets[name]["hub"] or name,
            dataset_name=task_name(scores.benchmark, name),
            dataset_split=sets[name]["split"],
            dataset_config=sets[name]["language"],
            metric_type=metric.replace("@", "_at_"),
            metric_value=round(metrics[metric], 5),
        )
        for name, metrics in scores.sets.items()
        for metric in TITLES
        if metric in metrics
    ]


def _prompts(model: ModelDescription) -> Table:
    # As in JSON, so that the line break is seen.
    rows = [
        cells((name, json.dumps(before, ensure_ascii=False)))
        for name, before in prompt_prefixes(model.sample.templates, model.prompts).items()
    ]
    return _table((Column("name", numeric=False), Column("prompt", numeric=False)), rows)


def _mix(training: Training) -> Table:
    learned = any(share.weight is not None for share in training.shares)
    columns = (
        Column("domain", numeric=False),
        Column("share of batches", "%"),
        Column("rows"),
        Column("epochs"),
        *([Column("tDRO weight", "%")] if learned else []),
        Column("instruction of its queries", numeric=False),
    )
    rows = [
        cells(
            (
                share.domain,
                f"{100 * share.probability:.2f}",
                f"{share.rows:,}",
                f"{share.epochs:.2f}",
                *([_percent(share.weight)] if learned else []),
                share.prompts[0] if share.prompts else NOTHING,
            )
        )
        for share in sorted(training.shares, key=lambda share: -share.probability)
    ]
    return _table(columns, rows)


def _scores(scores: Scores) -> Table:
    shown = [metric for metric in TITLES if metric in scores.average]
    columns = (
        Column("evaluation set", numeric=False),
        *(Column(TITLES[metric]) for metric in shown),
        Column("queries"),
        Column("prompt name", numeric=False),
    )
    rows = [
        (name, metrics, f"{metrics['queries']:,}", prompt_name(scores.benchmark, name))
        for name, metrics in scores.sets.items()
    ]
    return _table(
        columns,
        [
            cells((name, *(_percent(values.get(metric)) for metric in shown), *rest))
            for name, values, *rest in [*rows, ("average", scores.average, "", "")]
        ],
    )


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.2f}"


def _settings(training: Training) -> Table:
    record: Mapping[str, Any] = training.record
    config = record["config"]
    lora, steps = config["model"]["lora"], config["trainer"]["steps"]
    if best := record.get("best_step"):
        steps = f"{best['step']} of {steps}, the best by {best['metric']} on a dev set"
    values = {
        "run": training.name,
        "seed": record["seed"],
        "steps": steps,
        "batch size": config["data"]["batch_size"],
        "hard negatives": config["data"]["negatives"],
        "learning rate": f"{config['optimiser']['lr']:g}",
        "temperature": f"{config['module']['temperature']:g}",
        "precision": config["trainer"]["precision"],
        "trained": f"LoRA, r {lora['r']}, alpha {lora['alpha']}" if lora else "every weight",
        "tdro-lightning": record["versions"]["tdro-lightning"],
        "commit": record["git_commit"] or NOTHING,
    }
    columns = (Column("setting", numeric=False), Column("value", numeric=False))
    return _table(columns, [cells((name, str(value))) for name, value in values.items()])


def _checks(checks: Sequence[ReaderCheck]) -> Table:
    columns = (
        Column("read by", numeric=False),
        Column("smallest cosine"),
        Column("largest difference of a component"),
    )
    return _table(
        columns, [cells((c.way, f"{c.cosine:.7f}", f"{c.difference:.1e}")) for c in checks]
    )


def _table(columns: Sequence[Column], rows: Sequence[tuple[Any, ...]]) -> Table:
    return Table("", "", tuple(columns), tuple(rows))
