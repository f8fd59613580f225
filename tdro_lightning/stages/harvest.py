"""Stage `harvest`: the demo's data from the user's standard library."""

from pathlib import Path

from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import tell


def run(config: Config) -> None:
    """Write `train/`, `eval/` and `manifest.json` into the run folder."""
    from tdro_lightning.demo.harvest import harvest

    assert config.harvest is not None
    manifest = harvest(Path(config.run_dir), max_rows=config.harvest.max_rows, seed=config.seed)
    for name, domain in manifest["domains"].items():
        tell(f"  {name}: {domain['rows']} rows")
