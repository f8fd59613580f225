"""What a run folder records of its encoder: data mix, settings and scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tdro_lightning.dro.weights_file import read_weights
from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint, read_checked_json, read_json
from tdro_lightning.records.outputs import RECORD


@dataclass(frozen=True)
class Share:
    """How much of a domain an encoder was trained on.

    Attributes:
        probability: with which a batch was of the domain.
        rows: of the domain's file.
        epochs: how often its rows were drawn.
        weight: that tDRO learned, where the mixture comes from it.
        prompts: instructions of its queries.
    """

    domain: str
    probability: float
    rows: int
    epochs: float
    weight: float | None
    prompts: list[str]


@dataclass(frozen=True)
class Training:
    """The run that made an encoder."""

    name: str
    base: str | None
    shares: list[Share]
    transfer: Mapping[str, Any]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Scores:
    """Scores of one retriever on evaluation sets, and how the sets were configured."""

    label: str
    sets: Mapping[str, Mapping[str, float]]
    average: Mapping[str, float]
    benchmark: Mapping[str, Any]
    record: Mapping[str, Any] = field(repr=False)


def find_training_run(encoder: str) -> Path | None:
    """The run folder that an encoder lies in, if it is one of a finished fine-tuning."""
    folder = Path(encoder).resolve().parent
    if not Path(encoder).is_dir() or not (folder / RECORD).is_file():
        return None
    return folder if read_checked_json(folder / RECORD)["stage"] == "fit" else None


def read_training(run: Path) -> Training:
    """Data mix and settings of a fine-tuning run.

    Raises:
        DataError: a file of the run is missing.
    """
    record = read_checked_json(run / RECORD)
    config = record["config"]
    usage = read_json(run / "data_usage.json")
    weights = _learned_weights(record)
    shares = [
        Share(
            domain=domain,
            probability=used["probability"],
            rows=used["rows"],
            epochs=used["epochs"],
            weight=weights.get(domain),
            prompts=config["domains"]["catalogue"][domain]["prompts"],
        )
        for domain, used in usage.items()
    ]
    model = record["inputs"]["model"]
    base = model["path"] if model["sha256"] is None else None  # only hub names mean something
    return Training(record["name"], base, shares, config["transfer"], record)


def _learned_weights(record: Mapping[str, Any]) -> dict[str, float]:
    """The tDRO weights behind a mixture, if their file is still there and the same."""
    file = record["inputs"].get("weights")
    path = Path(file["path"]) if file else None
    if path is None or not path.is_file() or fingerprint(path) != file["sha256"]:
        return {}
    return read_weights(path).weights(record["config"]["transfer"]["kind"])


def read_scores(run: Path, encoder: str) -> Scores:
    """The scores of an encoder in a run that evaluated it.

    Args:
        run: run folder with `metrics.json`, of an evaluation or of the encoder's own training.
        encoder: folder or hub name.

    Raises:
        DataError: the run evaluated no such encoder.
    """
    metrics, record = read_json(run / "metrics.json"), read_checked_json(run / RECORD)
    sha256 = fingerprint(Path(encoder)) if Path(encoder).is_dir() else None
    evaluated = {
        label.removeprefix("encoder "): file
        for label, file in record["inputs"].items()
        if label.startswith("encoder ")
    }
    if record["stage"] == "fit" and (run / "encoder").is_dir():
        own = {"path": str(run / "encoder"), "sha256": fingerprint(run / "encoder")}
        evaluated = dict.fromkeys(metrics["retrievers"], own)
    for label, file in evaluated.items():
        same = file["sha256"] == sha256 if sha256 else file["path"] == encoder
        if same and label in metrics["retrievers"]:
            own = metrics["retrievers"][label]
            return Scores(label, own["sets"], own["average"], record["config"]["benchmark"], record)
    raise DataError(
        f"export.metrics={run}: it evaluated {', '.join(metrics['retrievers'])}, and none of them "
        f"is {encoder} as it is now; evaluate it with +experiment=evaluate "
        f"+evaluate.encoders.NAME={encoder}"
    )
