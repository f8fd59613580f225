"""An encoder as a folder that sentence-transformers, transformers and PEFT read.

sentence-transformers 5 knows no file of version 6's own, and transformers 4 neither version 5's
tokenizer classes nor its key for the rotary base; all of them read the older names written here.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from peft import PeftModel
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from tdro_lightning.errors import ConfigError
from tdro_lightning.files import read_json, write_json
from tdro_lightning.models.adapter import save_backbone
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.head import Dense, Head
from tdro_lightning.models.model_files import ADAPTER
from tdro_lightning.models.templates import TEXT, Templates

ADAPTER_FOLDER = "adapter"
FORMAT = "5.1.0"  # of sentence-transformers: a reader that is older than this warns
POOLING_MODES = {
    "cls_token": "cls",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_length",
    "weightedmean_tokens": "weighted_mean",
    "lasttoken": "last",
}
PLAIN_POOLINGS = ("last", "mean", "cls")  # that a model card shows in a line
SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def write_adapter(
    encoder: Encoder, folder: Path, prompts: Mapping[str, str | None], base: str
) -> None:
    """Write the encoder's adapter alone.

    Args:
        encoder: an encoder with an adapter of its own.
        folder: it is made.
        prompts: as in `write_merged`.
        base: name of the base model in the adapter's configuration; PEFT itself writes the path
            from which it was loaded, which means nothing on another machine.
    """
    save_backbone(encoder.backbone, folder)
    settings = {**read_json(folder / ADAPTER), "base_model_name_or_path": base}
    if isinstance(settings["target_modules"], list):  # of a set, in another order every time
        settings["target_modules"].sort()
    write_json(folder / ADAPTER, settings)
    _write_settings(encoder, folder, prompts)


def write_merged(encoder: Encoder, folder: Path, prompts: Mapping[str, str | None]) -> None:
    """Write the whole model, an adapter merged into it; the encoder is that model afterwards.

    Args:
        encoder: an encoder in float32, in which the adapter is merged too.
        folder: it is made.
        prompts: instruction of the queries by the name that `encode` takes, None for none.
    """
    if isinstance(encoder.backbone, PeftModel):
        encoder.backbone = encoder.backbone.merge_and_unload(safe_merge=True)
    encoder.backbone.save_pretrained(str(folder))
    _name_rotary_base(folder / "config.json")
    _write_settings(encoder, folder, prompts)


def require_exportable(encoder: Encoder) -> None:
    """Refuse what sentence-transformers has not, before anything is written.

    Raises:
        ConfigError: names it, and what there is.
    """
    known = list(POOLING_MODES.values())
    if encoder.pooling not in known and not encoder.sparse:
        raise ConfigError(
            f"model.pooling={encoder.pooling}: cannot be exported, since sentence-transformers has "
            f"only {' and '.join(known)} of this package's"
        )
    for template in (encoder.templates.query, encoder.templates.passage):
        if not template.endswith(TEXT):
            raise ConfigError(
                f"the template {template!r} cannot be exported, since sentence-transformers knows "
                f"prompts before a text only; it must end with {TEXT}"
            )
    dimensions = None if encoder.sparse else _dense_head(encoder).dimensions
    if dimensions is not None:
        raise ConfigError(
            f"an encoder of {dimensions} dimensions cannot be exported; export the "
            "whole one, and read it with truncate_dim"
        )


def _dense_head(encoder: Encoder) -> Head:
    assert isinstance(encoder.head, Head), "`sparse_folder` writes the others"
    return encoder.head


def is_plain(encoder: Encoder) -> bool:
    """Whether a line of code makes unit vectors of the token states."""
    if encoder.sparse:
        return False
    head = _dense_head(encoder)
    return encoder.pooling in PLAIN_POOLINGS and not head.layers and head.normalized


def portable_base(base: str, folder: Path, name: str | None) -> str:
    """Name of the base model in an adapter's folder: `name`, its hub name, or a relative path.

    Args:
        base: hub name, or folder on this machine.
        folder: where the adapter will lie.
        name: what the user wants it to be, None for no wish.
    """
    if name is not None or not Path(base).is_dir():
        return name or base
    return Path(os.path.relpath(Path(base).resolve(), folder.resolve())).as_posix()


def prompt_prefixes(templates: Templates, prompts: Mapping[str, str | None]) -> dict[str, str]:
    """The prefix of a text, by prompt name."""
    queries = {name: templates.format_query("", prompt) for name, prompt in prompts.items()}
    return queries | {"document": templates.format_passage("")}


def _write_settings(encoder: Encoder, folder: Path, prompts: Mapping[str, str | None]) -> None:
    """Write everything but the weights."""
    # There is one limit for all texts, so it is that of the documents; the card names the other.
    write_tokenizer(encoder.tokenizer.tokenizer, folder, encoder.passage_tokens)
    head = _dense_head(encoder)
    dense = head.layers
    kinds = ["Transformer", "Pooling", *["Dense"] * len(dense)]
    kinds += ["Normalize"] if head.normalized else []
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], start=1))]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    write_json(folder / "modules.json", modules)
    for number, layer in enumerate(dense, start=2):
        _write_dense(layer, folder / f"{number}_Dense")
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": encoder.passage_tokens, "do_lower_case": False},
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": encoder.backbone.config.get_text_config().hidden_size,
            **{
                f"pooling_mode_{mode}": how == encoder.pooling
                for mode, how in POOLING_MODES.items()
            },
            "include_prompt": True,
        },
    )
    if head.normalized:
        write_json(folder / paths[-1] / "config.json", {})
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "__version__": {"sentence_transformers": FORMAT},
            "prompts": prompt_prefixes(encoder.templates, prompts),
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if head.normalized else "dot",
        },
    )
    encoder.describe(folder)


def _write_dense(layer: Dense, folder: Path) -> None:
    shape = layer.shape
    activation = type(layer.activation)
    settings = {
        "in_features": shape.inputs,
        "out_features": shape.outputs,
        "bias": shape.bias,
        "activation_function": f"{activation.__module__}.{activation.__name__}",
    }
    if shape.residual:
        settings["use_residual"] = True
    write_json(folder / "config.json", settings)
    values = {name: value.detach().cpu().contiguous() for name, value in layer.state_dict().items()}
    save_file(values, folder / "model.safetensors")


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, limit: int) -> None:
    """Write the tokenizer as it is, so that no class of a family puts its own EOS rule in."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / "tokenizer.json"))
    special = {f"{kind}_token": getattr(tokenizer, f"{kind}_token") for kind in SPECIAL}
    # A decoder without a token for padding gets any other, since nothing looks at padding.
    special["pad_token"] = special["pad_token"] or special["eos_token"]
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{name: token for name, token in special.items() if token is not None},
            "model_max_length": limit,
            "padding_side": "right",
            "truncation_side": "right",
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # a special token within a text is text
        },
    )


def _name_rotary_base(path: Path) -> None:
    """Write the rotary base under transformers 4's keys too; it would take another one silently."""
    config = read_json(path)
    rotary = config.get("rope_parameters") or {}
    if "rope_theta" in rotary:
        config["rope_theta"] = rotary["rope_theta"]
        if rotary.get("rope_type", "default") != "default":
            config["rope_scaling"] = {k: v for k, v in rotary.items() if k != "rope_theta"}
        write_json(path, config)
