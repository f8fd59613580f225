"""Stage `init_model`: a small untrained model with a tokenizer trained on the domains."""

import logging
from collections.abc import Iterator
from pathlib import Path

from tdro_lightning.assembly.domains import configured_domains
from tdro_lightning.config.schema import Config
from tdro_lightning.console.libraries import quiet_libraries
from tdro_lightning.console.output import tell
from tdro_lightning.data.domains import Domain
from tdro_lightning.data.example import passage_text

TOKENIZER_ROWS = 1000  # rows a domain the tokenizer learns from; each domain counts alike

logger = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Write an ordinary model folder to `model/` in the run folder."""
    from tdro_lightning.models.tiny import build_tiny_model

    quiet_libraries()
    assert config.model.tiny is not None
    sizes = config.model.tiny
    parameters = build_tiny_model(
        _texts(configured_domains(config)),
        Path(config.run_dir) / "model",
        vocabulary=sizes.vocabulary,
        width=sizes.width,
        layers=sizes.layers,
        heads=sizes.heads,
        seed=config.seed,
    )
    tell(f"  {parameters:,} parameters")


def _texts(domains: list[Domain]) -> Iterator[str]:
    for domain in domains:
        logger.info("tokenizer: reading %s", domain.name)
        for row in domain.table.select(range(min(TOKENIZER_ROWS, len(domain)))):
            yield row["query"]
            yield passage_text(row["positive_passages"][0])
