"""What may stand in a model's files: weights as safetensors, no code, and no way out of the folder.

Local folders are read without transformers, so that a folder is refused before it is imported.
"""

import logging
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.files import fingerprint, read_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig

logger = logging.getLogger(__name__)

CONFIG = "config.json"
DESCRIPTION = "encoder.json"  # beside the model: pooling and token limits, which the weights imply
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER = "tokenizer.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
DECIDING = (  # besides the weights, what an encoder's embeddings depend on
    *(CONFIG, ADAPTER, TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model"),
)
SIZES = (  # of a model's shape; where one is 0 or less, building it fails in many ways
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"),
    *("type_vocab_size", "n_embd", "n_head", "n_layer", "n_positions"),
)
LARGEST_SIZE = 10**8
OFFSET_POSITIONS = (  # whose first positions, up to that of the padding token, no text has
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"),
)
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flex_attention")
_CODE = "names code of its own (`{}`), which is never run; use a model that needs none"
_OTHER = "names files or code outside the usual ones (`{}`), which are never read; take it out"
_QUANTISED = "is of a quantised model (`{}`); use the one it was made from"
_REFUSED = {  # file: the keys that may hold nothing, at any depth, and what is wrong with them
    CONFIG: {
        **dict.fromkeys(("auto_map", "custom_pipelines", "custom_generate"), _CODE),
        **dict.fromkeys(("transformers_weights", "configuration_files", "gguf_file"), _OTHER),
        **dict.fromkeys(
            ("kernel_config", "fusion_config", "backbone", "use_timm_backbone"), _OTHER
        ),
        **dict.fromkeys(("quantization_config", "compression_config", "quant_method"), _QUANTISED),
    },
    TOKENIZER_CONFIG: {
        "auto_map": _CODE,
        **dict.fromkeys(("vocab_file", "merges_file", "spm_file", "vocab", "merges"), _OTHER),
        **dict.fromkeys(("fast_tokenizer_files", "gguf_file", "tokenizer_object"), _OTHER),
        "init_inputs": _OTHER,
    },
    ADAPTER: {
        **dict.fromkeys(("auto_map", "megatron_config"), _CODE),
        **dict.fromkeys(("corda_config", "lora_ga_config", "arrow_config"), _OTHER),
        "revision": "names a revision of its base (`{}`), which is not read; download that one, "
        "and name its folder in base_model_name_or_path",
    },
    **{
        name: dict.fromkeys(("auto_map", "custom_generate"), _CODE)
        for name in ("generation_config.json", "processor_config.json", "preprocessor_config.json")
    },
}


def refuse_model_code(path: str) -> None:
    """Refuse a model that brings code, reads what is not in its folder, or has impossible sizes.

    Args:
        path: folder or hub name; one that is not there is left for its loading to refuse.

    Raises:
        ConfigError: one of its files names code, another file or a kernel, or is a link elsewhere,
            or a size in its config.json is no whole number above 0.
        DataError: one of its files is not JSON.
    """
    for name, refused in _REFUSED.items():
        settings = _settings(path, name)
        if name == CONFIG and settings.get("auto_map") and _is_native(settings):
            logger.info("%s: the code that its %s names is not used", path, name)
            del settings["auto_map"]
        for key, value in _leaves(settings):
            if value and (wrong := refused.get(key)):
                raise ConfigError(f"model.path={path}: its {name} {wrong.format(key)}")
            if key == "tokenizer_class" and value:
                _require_tokenizer_class(path, name, value)
    adapter = _settings(path, ADAPTER)
    if adapter.get("peft_type", "LORA") != "LORA":
        raise ConfigError(
            f"model.path={path}: its {ADAPTER} is of kind {adapter['peft_type']!r}; adapters are "
            "of kind LORA"
        )
    for attention in attentions(path):
        if attention not in ATTENTIONS:
            raise ConfigError(
                f"model.path={path}: its {CONFIG} names the attention {attention!r}, whose code "
                f"would be downloaded; take it out, since model.attention decides"
            )
    for key, value in _leaves(_settings(path, CONFIG)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if key in SIZES and value is not None and not (whole and 1 <= value <= LARGEST_SIZE):
            raise ConfigError(
                f"model.path={path}: its {CONFIG} has {key} {value!r}; it must be a whole number "
                f"from 1 to {LARGEST_SIZE:,}"
            )
    _require_own_weights(path)
    if Path(path).is_dir():
        _refuse_links(Path(path))


def attentions(path: str) -> list[str]:
    """The attention implementations that a model's own config names."""
    keys = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal")
    values = [value for key, value in _leaves(_settings(path, CONFIG)) if key in keys and value]
    parts = [value.values() if isinstance(value, dict) else [value] for value in values]
    return [str(name) for name in chain.from_iterable(parts) if name]


def own_config(path: str, attention: str | None) -> "PretrainedConfig":
    """A model's config with the attention that is wanted, whatever its file says.

    Args:
        path: folder or hub name that `refuse_model_code` has passed.
        attention: None for transformers' own choice.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    config._attn_implementation = attention  # of all parts of the model
    others = sorted({name for name in attentions(path) if name != attention})
    if others:
        chosen = f"model.attention decides: {attention}" if attention else "it is not followed"
        logger.warning("%s: its %s names attention %s; %s", path, CONFIG, ", ".join(others), chosen)
    return config


def attend_in_both_directions(config: "PretrainedConfig", both: bool) -> None:
    """Let the tokens of a decoder see those behind them, or not; its saved config says so too."""
    text = config.get_text_config()
    if hasattr(text, "use_bidirectional_attention"):
        text.use_bidirectional_attention = both
    else:
        text.is_causal = not both


def attends_to_both_sides(config: "PretrainedConfig") -> bool:
    """Whether a decoder's config lets its tokens see those behind them."""
    text = config.get_text_config()
    both = getattr(text, "use_bidirectional_attention", None)
    return bool(both) if both is not None else getattr(text, "is_causal", True) is False


def require_positions(config: "PretrainedConfig", path: str, query: int, passage: int) -> None:
    """Refuse texts that are longer than the model has positions.

    Args:
        config: of the model; one without a number of positions reads texts of any length.
        path: of the model.
        query, passage: longest texts in tokens.

    Raises:
        ConfigError: names the key and the limit.
    """
    text = config.get_text_config()
    known = getattr(text, "max_position_embeddings", None)
    if not isinstance(known, int):
        return
    rope = getattr(text, "rope_parameters", None) or {}
    if isinstance(rope.get("factor"), int | float):  # positions that are stretched
        known = max(
            known, int(rope["factor"] * (rope.get("original_max_position_embeddings") or 0))
        )
    if text.model_type in OFFSET_POSITIONS and isinstance(text.pad_token_id, int):
        known -= text.pad_token_id + 1
    for key, asked in (("data.query_tokens", query), ("data.passage_tokens", passage)):
        if asked > known:
            raise ConfigError(f"{key}={asked}: model.path={path} has positions for {known} tokens")


def base_model(path: str) -> str | None:
    """Folder or hub name of the model that an adapter belongs to; None where there is no adapter.

    Args:
        path: folder or hub name of the adapter; its base may be named relative to the folder.

    Raises:
        ConfigError: the adapter names no base, or a folder that is not there, or an adapter, or its
            weights are not there as safetensors.
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
    base = str(beside.resolve()) if beside.is_dir() else base
    if not Path(base).is_dir() and not may_be_hub_name(base):
        raise ConfigError(
            f"model.path={path}: its {ADAPTER} names the base model {base}, which is not there; "
            "write its hub name or folder there"
        )
    if model_file(base, ADAPTER) is not None:
        raise ConfigError(f"model.path={path}: its base model {base} is an adapter itself")
    return base


def may_be_hub_name(path: str) -> bool:
    """Whether a path has the form of a model's name on the hub, `NAME` or `OWNER/NAME`."""
    return path.count("/") < 2 and not path.startswith((".", "/", "~"))


def model_file(path: str, name: str) -> Path | None:
    """A file of a model folder or of a hub model; None where it has none of this name."""
    if Path(path).is_dir():
        file: str | Path | None = Path(path) / name
    else:
        from transformers.utils.hub import cached_file

        file = cached_file(
            path,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return Path(file) if file is not None and Path(file).is_file() else None


def saved_head(path: str) -> dict[str, Any] | None:
    """What the folder of a trained encoder says of its head, read as it lies there.

    Returns:
        `kind` and what else its head is made of; None for a folder, or hub name, of another kind,
        and for a damaged one, which is refused when it is loaded.
    """
    if not (Path(path) / DESCRIPTION).is_file():
        return None
    try:
        described = read_json(Path(path) / DESCRIPTION)
    except DataError:
        return None
    head = described.get("head", {"kind": "dense"}) if isinstance(described, dict) else None
    return head if isinstance(head, dict) else None


def deciding_files(folder: Path) -> dict[str, str]:
    """Name and SHA-256 of the files that decide an encoder's embeddings beside its weights."""
    there = [name for name in DECIDING if (folder / name).is_file()]
    return {name: fingerprint(folder / name) for name in there}


def require_deciding_files(folder: Path, known: Any) -> None:
    """Refuse a folder whose files are not those that the encoder was saved with.

    Raises:
        DataError: names a file that was changed, added or removed.
    """
    present = deciding_files(folder)
    if present == known:
        return
    known = known if isinstance(known, dict) else {}
    names = sorted(n for n in present.keys() | known.keys() if present.get(n) != known.get(n))
    raise DataError(
        f"{folder}/{names[0] if names else CONFIG}: is not the file that the encoder was saved "
        "with, as the `sha256` in its encoder.json says; restore it, or take `sha256` out if the "
        "change is yours"
    )


def _is_native(settings: dict[str, Any]) -> bool:
    """Whether transformers has a class of its own for a model, which goes before the folder's."""
    from transformers import CONFIG_MAPPING

    return settings.get("model_type") in CONFIG_MAPPING


def _require_tokenizer_class(path: str, name: str, value: Any) -> None:
    """transformers takes any class of its own by this name, and loads the folder with it."""
    if not isinstance(value, str) or not re.fullmatch(r"\w+(Tokenizer(Fast)?|Backend)", value):
        raise ConfigError(f"model.path={path}: its {name} names {value!r}, which is no tokenizer")


def _require_own_weights(path: str) -> None:
    """Refuse an index of weights that names anything but safetensors files beside it."""
    file = model_file(path, INDEX)
    if file is None:
        return
    content = read_json(file)
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict):
        raise DataError(f"{file}: has no `weight_map`")
    local = Path(path).is_dir()
    for name in dict.fromkeys(map(str, files.values())):
        plain = re.fullmatch(r"[A-Za-z0-9][\w.-]*\.safetensors", name)
        if not plain or (local and not (file.parent / name).is_file()):
            raise ConfigError(
                f"model.path={path}: its {INDEX} names {name!r}; allowed are names of .safetensors "
                "files of this folder"
            )


def _refuse_links(folder: Path) -> None:
    """Refuse links that lead out of a folder, but for those of the hub's cache to its blobs."""
    inside = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        inside.append(folder.resolve().parents[1] / "blobs")
    for file in folder.rglob("*"):
        if file.is_symlink() and not any(file.resolve().is_relative_to(place) for place in inside):
            raise ConfigError(
                f"model.path={folder}: {file.name} is a link that leads out of it; copy the file"
            )


def _leaves(settings: Any) -> Iterator[tuple[str, Any]]:
    """Key and value of everything in a JSON object, of whole objects too."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        yield key, value
        yield from _leaves(value)


def _settings(path: str, name: str) -> dict[str, Any]:
    file = model_file(path, name)
    if file is None:
        return {}
    settings = read_json(file)
    if not isinstance(settings, dict):
        raise ConfigError(f"model.path={path}: its {name} must be a JSON object")
    return settings
