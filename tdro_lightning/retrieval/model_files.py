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


def base_model(path: str) -> str | None:
    """Folder or hub name of the model that an adapter belongs to; None where there is no adapter.

    Args:
        path: folder or hub name of the adapter; its base may be named relative to the folder.

    Raises:
        ConfigError: the adapter names no base, or its weights are not there as safetensors.
    """
    described = model_file(path, ADAPTER)
    if described is None:
        return None
    base = _settings(path, ADAPTER).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ConfigError(f"model.path={path}: its {ADAPTER} names no base_model_name_or_path")
    if model_file(path, ADAPTER_WEIGHTS) is None:
        raise ConfigError(
            f"model.path={path}: no {ADAPTER_WEIGHTS} in it; adapters are read as safetensors only"
        )
    beside = described.parent / base
    return str(beside.resolve()) if beside.is_dir() else base


def model_file(path: str, name: str) -> Path | None:
    """A file of a model folder or of a hub model; None where it has none of this name."""
    if Path(path).is_dir():
        found: str | Path | None = Path(path) / name
    else:
        found = cached_file(
            path,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return Path(found) if found is not None and Path(found).is_file() else None


def _settings(path: str, name: str) -> dict[str, Any]:
    file = model_file(path, name)
    if file is None:
        return {}
    found = read_json(file)
    if not isinstance(found, dict):
        raise ConfigError(f"model.path={path}: its {name} must be a JSON object")
    return found
