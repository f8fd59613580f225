"""Stage `init_model`: a small untrained model with a tokenizer trained on the domains."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Stage
from tdro_lightning.console.output import tell
from tdro_lightning.runs import inputs
from tdro_lightning.stages import require

TOKENIZER_ROWS = 1000  # rows a domain the tokenizer learns from; each domain counts alike

logger = logging.getLogger(__name__)


def _run(config: Config) -> None:
    """Write an ordinary model folder to `model/` in the run folder."""
    from tdro_lightning.assembly.domains import configured_domains
    from tdro_lightning.console.libraries import quiet_libraries
    from tdro_lightning.data.example import passage_text
    from tdro_lightning.models.tiny import build_tiny_model

    def texts() -> Iterator[str]:
        for domain in domains:
            logger.info("tokenizer: reading %s", domain.name)
            for row in domain.table.select(range(min(TOKENIZER_ROWS, len(domain)))):
                yield row["query"]
                yield passage_text(row["positive_passages"][0])

    quiet_libraries()
    domains, sizes = configured_domains(config), asdict(require(config.model.tiny))
    folder = Path(config.run_dir) / "model"
    parameters = build_tiny_model(texts(), folder, **sizes, seed=config.seed)
    tell(f"  {parameters:,} parameters")


def _rules(config: Config) -> list[str]:
    if config.model.tiny is not None:
        return []
    return ["stage=init_model needs model.tiny (its sizes): model=tiny"]


STAGE = Stage(
    name="init_model",
    run=_run,
    settings=lambda config: ("domains", "model"),
    inputs=inputs.domains,
    outputs=("model", "quarantine.jsonl"),
    rules=_rules,
)
