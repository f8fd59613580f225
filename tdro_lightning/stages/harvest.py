"""Stage `harvest`: the demo's data from the user's standard library."""

from pathlib import Path

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.console.output import tell
from tdro_lightning.demo.sources import identity, standard_library
from tdro_lightning.stages import require


def _run(config: Config) -> None:
    """Write `train/`, `eval/` and `manifest.json` into the run folder."""
    from tdro_lightning.demo.harvest import harvest

    most = require(config.harvest).max_rows
    manifest = harvest(Path(config.run_dir), max_rows=most, seed=config.seed)
    for name, domain in manifest["domains"].items():
        tell(f"  {name}: {domain['rows']} rows")


def _inputs(config: Config) -> dict[str, Input]:
    library = standard_library()
    return {"standard library": {"path": str(library), "sha256": identity(library)}}


STAGE = Stage(
    name="harvest",
    run=_run,
    section="harvest",
    settings=lambda config: ("harvest",),
    inputs=_inputs,
    outputs=("train", "eval", "manifest.json"),
)
