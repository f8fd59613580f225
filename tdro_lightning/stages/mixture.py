"""Stage `mixture`: how much of each domain, written for this trainer and for others."""

from pathlib import Path

from tdro_lightning.config.constraints import mixture_rules
from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.console.output import tell
from tdro_lightning.dro.mixture_file import MixtureFile
from tdro_lightning.dro.transfer import RULES
from tdro_lightning.report.tables import Column, Table, cells, terminal_table
from tdro_lightning.runs.inputs import domains


def _run(config: Config) -> None:
    """Write `mixture.yaml`, and a folder for each format.

    Raises:
        ConfigError: no such mixture, or losses that are scaled, which other trainers cannot do.
        DataError: a row or the weights file is broken.
    """
    from tdro_lightning.assembly.domains import configured_domains
    from tdro_lightning.assembly.encoders import configured_reading
    from tdro_lightning.assembly.mixture import configured_mixture, write_configured_mixture
    from tdro_lightning.assembly.validation import split_for_validation
    from tdro_lightning.export.mixture_formats import FORMATS

    rows = configured_domains(config, negatives=config.data.negatives > 0)
    loaded, _ = split_for_validation(config, rows)  # what is held out is in no training
    mixture = configured_mixture(config, {d.name: len(d) for d in loaded}, loaded)
    content = write_configured_mixture(config, mixture, loaded)
    used, templates = mixture.used_rows(loaded), configured_reading(config).templates
    for name in config.mixture.formats:
        FORMATS[name](content, used, templates, Path(config.run_dir) / name)
    tell(f"{terminal_table(mixture_table(content))}\nMixture: {config.run_dir}/mixture.yaml")


def mixture_table(content: MixtureFile) -> Table:
    """A row a domain, the largest probability first."""
    ranked = sorted(content.shares, key=lambda name: -content.probability[name])
    return Table(
        f"Mixture: {content.rule}",
        f"Epochs of a training of {content.steps} batches with {content.batch_size} rows.",
        (Column("domain", numeric=False), Column("probability"), Column("rows"), Column("epochs")),
        tuple(
            cells(
                [
                    name,
                    f"{content.probability[name]:.4f}",
                    f"{content.shares[name].rows:,}",
                    f"{content.epochs(name):.2f}",
                ]
            )
            for name in ranked
        ),
    )


def _inputs(config: Config) -> dict[str, Input]:
    asked = config.transfer
    weighted = RULES[asked.rule].weighted and asked.weights is not None
    return domains(config) | ({"weights": str(asked.weights)} if weighted else {})


def _rules(config: Config) -> list[str]:
    wrong = mixture_rules(config)
    if config.transfer.rule == "loss_reweight" and config.mixture.formats:
        wrong.append(
            "transfer.rule=loss_reweight scales losses, which mixture.formats cannot say; use "
            "transfer.rule=reweight, or mixture.formats=[]"
        )
    return wrong


STAGE = Stage(
    name="mixture",
    run=_run,
    settings=lambda config: (
        "mixture",
        "model",
        "domains",
        "data",
        "transfer",
        "trainer",
        "validation",
    ),
    inputs=_inputs,
    outputs=(
        *("mixture.yaml", "flag_embedding", "nemo_automodel", "interleave_datasets"),
        "quarantine.jsonl",
    ),
    rules=_rules,
)
