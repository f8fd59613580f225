"""What may stand in a model's files: weights as safetensors, and no code."""

from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from tdro_lightning.errors import ConfigError
from tdro_lightning.files import read_json

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def refuse_model_code(path: str) -> None:
    """Refuse a model that brings its own code: without it, it would be another model.

    Args:
        path: folder or hub name; one that is not there is left for its loading to refuse.

    Raises:
        ConfigError: one of its files names code.
        DataError: one of its files is not JSON.
    """
    for name in ("config.json", "tokenizer_config.json", ADAPTER):
        settings = _settings(path, name)
        if settings.get("auto_map"):
            raise ConfigError(
                f"model.path={path}: its {name} names code of its own (`auto_map`), which is never "
                "run; use a model that transformers knows without"
            )


def adapter_base(path: str) -> str | None:
    """The base model that an adapter folder names; None where the folder is no adapter's.

    Raises:
        ConfigError: it names none, or its weights are not there as safetensors.
    """
    if not (Path(path) / ADAPTER).is_file():
        return None
    base = _settings(path, ADAPTER).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ConfigError(f"model.path={path}: its {ADAPTER} names no base_model_name_or_path")
    if not (Path(path) / ADAPTER_WEIGHTS).is_file():
        raise ConfigError(
            f"model.path={path}: no {ADAPTER_WEIGHTS} in it; adapters are read as safetensors only"
        )
    return base


def _settings(path: str, name: str) -> dict[str, Any]:
    if Path(path).is_dir():
        file: str | Path | None = Path(path) / name
    else:
        file = cached_file(
            path,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    if file is None or not Path(file).is_file():
        return {}
    found = read_json(Path(file))
    if not isinstance(found, dict):
        raise ConfigError(f"model.path={path}: its {name} must be a JSON object")
    return found
