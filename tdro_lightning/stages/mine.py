"""Stage `mine`: hard negatives for every domain file of a folder."""

from pathlib import Path

from tdro_lightning.schema import Config
from tdro_lightning.stages.console import tell


def run(config: Config) -> None:
    """Write the rows with mined negatives to `train/` in the run folder."""
    from tdro_lightning.data.mining import mine

    assert config.mine is not None
    files = sorted(Path(config.mine.input).glob("*.jsonl*"))
    statistics = mine(
        {path.name.split(".")[0]: path for path in files},
        Path(config.run_dir) / "train",
        count=config.mine.negatives,
        depth=config.mine.depth,
        seed=config.seed,
    )
    for name, counts in statistics["domains"].items():
        tell(
            f"  {name}: {counts['rows']} rows, {counts['bm25']} BM25 negatives, "
            f"{counts['random_fill']} drawn at random"
        )
