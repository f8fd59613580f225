"""Stage `simulate`: where each loss measurement drives the paper's 25 domains, in a toy."""

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Stage


def _run(config: Config) -> None:
    from tdro_lightning.assembly.simulate import simulate_configured

    simulate_configured(config)


def _rules(config: Config) -> list[str]:
    assert config.simulate is not None
    simulate, wrong = config.simulate, []
    if len(set(simulate.seeds)) < 2:
        wrong.append(
            f"simulate.seeds={simulate.seeds} must be two different seeds or more: "
            "one shows nothing of the noise"
        )
    if simulate.proxy_noise < 0:
        wrong.append(f"simulate.proxy_noise={simulate.proxy_noise} must be 0 or more")
    return wrong


STAGE = Stage(
    name="simulate",
    run=_run,
    section="simulate",
    settings=lambda config: ("simulate",),
    outputs=("simulation.json", "simulation.md"),
    rules=_rules,
)
