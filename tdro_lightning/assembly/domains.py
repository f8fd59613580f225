"""The configured domains, loaded and checked before any model is."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import tell
from tdro_lightning.data.domains import Domain, load_domains
from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.distributed.processes import is_first_process
from tdro_lightning.errors import ConfigError
from tdro_lightning.models.templates import Templates
from tdro_lightning.models.tokenizer import TextTokenizer
from tdro_lightning.runs.inputs import domains_root

LEAST_QUERY_TOKENS = 8  # that a prompt must leave, or different queries become the same tokens
QUARANTINE = "quarantine.jsonl"  # in the run folder: rows that were skipped, and why


def configured_domains(config: Config, negatives: bool = False) -> list[Domain]:
    """Rows of the configured domains; those that are skipped are listed in the run folder.

    Args:
        config: with `data.on_bad_row=skip`, rows that cannot be used are left out.
        negatives: whether a row needs a hard negative.

    Raises:
        ConfigError: neither a folder nor a hub dataset is named.
        DataError: a file is missing, a row cannot be used, or more than may be skipped cannot.
    """
    skip = config.data.on_bad_row == "skip"
    domains = load_domains(
        {name: asdict(entry) for name, entry in config.domains.catalogue.items()},
        root=domains_root(config),
        hub=config.domains.hub,
        only=config.domains.only,
        rows=config.domains.rows or {},
        skip=skip,
    )
    if negatives and skip:
        domains = [domain.with_negatives() for domain in domains]
    for domain in domains:
        if skip:
            domain.require_few_skipped(config.data.max_bad_rows)
        elif negatives:
            domain.require_negatives()
    skipped = [{"domain": d.name, **asdict(row)} for d in domains for row in d.skipped]
    if is_first_process():
        write_quarantine(Path(config.run_dir), skipped)
    if skipped:
        place = Path(config.run_dir) / QUARANTINE
        tell(f"  {len(skipped)} rows cannot be used and are skipped: {place}")
    return domains


def require_room_for_queries(
    domains: Sequence[Domain], tokenizer: TextTokenizer, query_tokens: int, templates: Templates
) -> None:
    """Refuse a prompt that leaves a query hardly any token.

    Args:
        domains: with their prompts.
        tokenizer: of the encoder.
        query_tokens: longest query, its prompt and special tokens included.
        templates: of the encoder.

    Raises:
        ConfigError: names the longest such prompt.
    """
    empty = {
        (domain.name, prompt): templates.format_query("", prompt)
        for domain in domains
        for prompt in domain.prompts
    }
    taken = {  # a template may have no place for prompts, and a tokenizer add no token by itself
        place: int(tokenizer([text], 1 << 20).lengths[0]) if text else 0
        for place, text in empty.items()
    }
    longest = max(taken.values(), default=0)
    if longest and query_tokens - longest < LEAST_QUERY_TOKENS:
        name, prompt = max(taken, key=taken.__getitem__)
        enough = longest + LEAST_QUERY_TOKENS
        raise ConfigError(
            f"data.query_tokens={query_tokens}: the prompt {prompt!r} of domain {name} takes "
            f"{longest} tokens, which leaves {max(0, query_tokens - longest)} for the query, and "
            f"{LEAST_QUERY_TOKENS} must be left; set data.query_tokens={enough} or more, or "
            f"shorten domains.catalogue.{name}.prompts"
        )


def write_quarantine(folder: Path, rows: list[dict[str, Any]]) -> None:
    """List rows that cannot be used in the run folder; no file where there are none."""
    (folder / QUARANTINE).unlink(missing_ok=True)
    if rows:
        write_rows(folder / QUARANTINE, rows)
