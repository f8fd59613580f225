"""The data view of the configured domains, by BM25 or a configured encoder."""

from collections.abc import Mapping
from typing import Any

from tdro_lightning.assembly.encoders import configured_encoder
from tdro_lightning.assembly.evaluate import EncoderRetriever, encoder_retriever
from tdro_lightning.config.schema import Config, ValidateConfig
from tdro_lightning.console.libraries import quiet_libraries
from tdro_lightning.console.output import tell
from tdro_lightning.data.domain_files import domain_file
from tdro_lightning.data.validation import Findings
from tdro_lightning.errors import DataError
from tdro_lightning.inspection.matches import EncoderMatcher, LexicalMatcher, Matcher
from tdro_lightning.inspection.sample import MOST_NEGATIVES, MOST_POSITIVES, Drawing
from tdro_lightning.inspection.view import domain_view
from tdro_lightning.runs.inputs import domains_root

FORMAT = 1


def view_domains(
    config: Config, settings: ValidateConfig, findings: Mapping[str, Findings]
) -> dict[str, Any]:
    """What is seen of each domain's rows that can be read, and why of the others nothing is.

    One domain is held at a time: its drawn rows and their scores.

    Args:
        config: of the run.
        settings: of the view.
        findings: of every domain, by name.
    """
    retriever = None
    if settings.encoder is not None:
        quiet_libraries()
        retriever = encoder_retriever(configured_encoder(config, settings.encoder))
    drawing = Drawing(settings.rows, config.data.batch_size, config.data.negatives, config.seed)
    domains = {}
    for name, found in findings.items():
        view = _domain(config, name, found, drawing, retriever)
        domains[name] = {
            "rows": len(found.readable),
            "duplicates": {"exact": found.copies, "normalised": found.twins},
            **view,
        }
    return {
        "format": FORMAT,
        "scorer": settings.encoder or "BM25",
        "rows": settings.rows,
        "batch_size": config.data.batch_size,
        "negatives": config.data.negatives,
        "domains": domains,
    }


def _domain(
    config: Config, name: str, found: Findings, drawing: Drawing, retriever: EncoderRetriever | None
) -> dict[str, Any]:
    entry = config.domains.catalogue[name]
    if not found.readable:
        return {"unreadable": found.unusable or "no row of it can be read"}
    matcher: Matcher = LexicalMatcher()
    if retriever is not None:
        prompt = entry.prompts[0] if entry.prompts else None
        passages = drawing.rows * (MOST_POSITIVES + MOST_NEGATIVES)
        matcher = EncoderMatcher(retriever.query_scorer(prompt), retriever.scorer(passages))
    tell(f"  {name}: looking at {min(len(found.readable), drawing.rows)} rows")
    try:
        path, _ = domain_file(entry.file, domains_root(config), config.domains.hub)
        return domain_view(drawing.read(path, name, entry.prompts, found.readable), matcher)
    except DataError as error:
        return {"unreadable": f"{name}: {error}"}
