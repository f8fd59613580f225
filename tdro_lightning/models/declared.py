"""What a published folder declares in `modules.json`, the layout of sentence-transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.files import read_json
from tdro_lightning.models.head import ACTIVATIONS, DenseShape, Head
from tdro_lightning.models.model_files import TOKENIZER_CONFIG, model_file
from tdro_lightning.models.sparse_head import SATURATIONS, SparseShape
from tdro_lightning.models.templates import Templates

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
SENTENCES = "sentence_bert_config.json"
POOLING_NAMES = {  # theirs to ours
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_length",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
_FLAGS = {  # of files before version 6
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_QUERY_NAMES = ("query", "SearchQuery", "web_search_query", "Retrieval-query")
_PASSAGE_NAMES = ("document", "passage", "Document", "Retrieval-document")
_LANGUAGE_MODELS = {"fill-mask": "masked", "text-generation": "causal"}  # by transformer_task
UNLIMITED = 10**6  # a tokenizer's model_max_length above it means none


@dataclass(frozen=True)
class Declared:
    """What a folder declares of how its vectors are made.

    Attributes:
        pooling: of `POOLINGS`.
        dense: shapes of its dense layers.
        weights: of these, by name in `Head`.
        dimensions: first values that are kept; None keeps all.
        normalized: whether vectors are scaled to unit length.
        templates: of queries and passages.
        tokens: longest text; None where it sets no limit.
        append_eos: whether its tokenizer is to end texts with EOS and does not by itself, as some
            files of version 4 of transformers say, which version 5 does not follow.
        sparse: the head of sparse vectors, for which only templates and tokens hold beside it;
            None makes dense ones.
        terms: values of a sparse vector, as it says; None where it does not.
    """

    pooling: str
    dense: tuple[DenseShape, ...]
    weights: Mapping[str, Tensor]
    dimensions: int | None
    normalized: bool
    templates: Templates
    tokens: int | None
    append_eos: bool
    sparse: SparseShape | None = None
    terms: int | None = None

    def head(self, path: str) -> Head:
        """Its dense layers, truncation and normalisation.

        Raises:
            ConfigError: the weights have other sizes than their config says.
        """
        head = Head(self.dense, self.dimensions, self.normalized)
        try:
            head.take_weights(self.weights)
        except RuntimeError:
            sizes = ", ".join(f"{shape.inputs} to {shape.outputs}" for shape in self.dense)
            raise ConfigError(
                f"model.path={path}: the weights of its dense layers are not of the sizes that "
                f"their config.json says ({sizes})"
            ) from None
        return head


def read_declared(path: str) -> Declared | None:
    """What a folder or hub model declares; None where it has no `modules.json`.

    Raises:
        ConfigError: it declares what cannot be applied; names it.
        DataError: a file is damaged.
    """
    file = model_file(path, MODULES)
    if file is None:
        return None
    modules = read_json(file)
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise DataError(f"{file}: must be a list of modules")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    folders = [str(module.get("path", "")) for module in modules]
    for folder in folders:
        if folder.strip(".") != folder or "/" in folder:
            raise _refused(path, f"a module in {folder!r}")
    if "SpladePooling" in kinds:
        return _sparse(path, kinds, folders)
    _require_order(path, kinds)
    task = _object(path, SENTENCES).get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise _refused(path, f"the transformer_task {task!r} before pooling")
    unit_tokens = kinds[1] == "Normalize"
    pooling = _pooling(path, folders[kinds.index("Pooling")])
    if unit_tokens:
        if pooling != "mean":
            raise _refused(path, f"normalised token states before pooling {pooling!r}")
        pooling = "mean_of_unit_tokens"
    dense: list[DenseShape] = []
    weights: dict[str, Tensor] = {}
    for kind, folder in zip(kinds, folders, strict=True):
        if kind == "Dense":
            dense.append(_dense_shape(path, folder))
            weights |= {f"dense.{len(dense) - 1}.{k}": v for k, v in _weights(path, folder).items()}
    settings = _object(path, SETTINGS)
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot"):
        raise _refused(path, f"the similarity {similarity!r}")
    return Declared(
        pooling,
        tuple(dense),
        weights,
        settings.get("truncate_dim"),
        # Cosines are products of unit vectors, whether or not the folder makes them.
        "Normalize" in kinds[2:] or similarity == "cosine",
        _templates(path, settings),
        _tokens(path),
        bool(_object(path, TOKENIZER_CONFIG).get("add_eos_token")),
    )


def describe_declared(declared: Declared, size: int) -> str:
    """One line on what was taken from a folder.

    Args:
        declared: what it declares.
        size: values of its vectors.
    """
    parts = [f"pooling {declared.pooling}"]
    if declared.sparse is not None:
        kind = declared.sparse.language_model
        parts = [f"sparse, the largest logits of a {kind} language model"]
        parts += [declared.sparse.saturation] if declared.sparse.saturation != "relu" else []
    if declared.dense:
        parts.append(f"{len(declared.dense)} dense layer{'s' * (len(declared.dense) > 1)}")
    parts.append(f"query {declared.templates.query!r}, passage {declared.templates.passage!r}")
    parts.append(f"{size} {'dimensions' if declared.sparse is None else 'terms'}")
    return f"{', '.join(parts)}, from {MODULES}"


def _sparse(path: str, kinds: list[str], folders: list[str]) -> Declared:
    """What a folder of a SPLADE declares: a language model, and how its logits are pooled."""
    for kind in kinds:
        if kind not in ("MLMTransformer", "Transformer", "SpladePooling"):
            raise _refused(path, f"the module {kind!r} of a sparse encoder")
    if kinds[1:] != ["SpladePooling"]:
        raise _refused(path, f"the modules in this order: {', '.join(kinds)}")
    language_model = _language_model(path, kinds[0])
    pooling = _object(path, f"{folders[1]}/config.json")
    strategy = pooling.get("pooling_strategy", "max")
    if strategy != "max":
        raise _refused(path, f"the pooling_strategy {strategy!r}")
    saturation = pooling.get("activation_function", "relu")
    if saturation not in SATURATIONS:
        raise _refused(path, f"the activation_function {saturation!r}")
    settings = _object(path, SETTINGS)
    similarity = settings.get("similarity_fn_name") or "dot"
    if similarity != "dot":
        raise _refused(path, f"the similarity {similarity!r} of sparse vectors")
    if settings.get("max_active_dims") is not None:
        raise _refused(path, f"max_active_dims {settings['max_active_dims']}")
    return Declared(
        pooling="mean",
        dense=(),
        weights={},
        dimensions=None,
        normalized=False,
        templates=_templates(path, settings),
        tokens=_tokens(path),
        append_eos=False,
        sparse=SparseShape(language_model=language_model, saturation=saturation),
        terms=pooling.get("embedding_dimension", pooling.get("word_embedding_dimension")),
    )


def _language_model(path: str, module: str) -> str:
    """The kind of language model whose logits are pooled; refuse other outputs and settings."""
    settings = _object(path, SENTENCES)
    masked = module == "MLMTransformer"
    task = settings.get("transformer_task", "fill-mask" if masked else "feature-extraction")
    if task not in _LANGUAGE_MODELS:
        raise _refused(path, f"SpladePooling after the transformer_task {task!r}")
    kind = _LANGUAGE_MODELS[task]
    forward = {"method": "forward", "method_output_name": "logits"}
    given = (settings.get("modality_config") or {}).get("text", forward)
    own_name = "token_embeddings" if kind == "masked" else "causal_logits"
    name = settings.get("module_output_name") or own_name
    if given != forward or name != "token_embeddings":
        raise _refused(path, f"SpladePooling of {given} as {name!r}")
    # A causal language model gives the logits of a text's last token alone by default.
    every = {} if kind == "masked" else {"text": {"logits_to_keep": 0}}
    processing = settings.get("processing_kwargs") or {}
    if processing != every:
        raise _refused(path, f"the processing_kwargs {processing}")
    for key in ("query_length", "document_length", "query_expansion"):
        if settings.get(key) is not None:
            raise _refused(path, f"{key} {settings[key]!r}")
    return kind


def _require_order(path: str, kinds: list[str]) -> None:
    """Refuse modules that are unknown, or in an order that has no meaning here."""
    known = ("Transformer", "Pooling", "Dense", "Normalize")
    for kind in kinds:
        if kind not in known:
            raise _refused(path, f"the module {kind!r}")
    rest = kinds[1:]
    if rest[:1] == ["Normalize"]:
        rest = rest[1:]
    middle = rest[1:-1] if rest[-1:] == ["Normalize"] else rest[1:]
    if kinds[:1] != ["Transformer"] or rest[:1] != ["Pooling"] or set(middle) - {"Dense"}:
        raise _refused(path, f"the modules in this order: {', '.join(kinds)}")


def _pooling(path: str, folder: str) -> str:
    settings = _object(path, f"{folder}/config.json")
    modes = settings.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _FLAGS.items() if settings.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in POOLING_NAMES:
        raise _refused(path, f"the pooling {' and '.join(map(repr, modes))}")
    if not settings.get("include_prompt", True):
        raise _refused(path, "a pooling that leaves the prompt out (include_prompt: false)")
    return POOLING_NAMES[modes[0]]


def _dense_shape(path: str, folder: str) -> DenseShape:
    settings = _object(path, f"{folder}/config.json")
    name = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = name.rpartition(".")[2].lower()
    if not name.startswith("torch.") or activation not in ACTIVATIONS:
        raise _refused(path, f"the activation {name!r}")
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key, "sentence_embedding") != "sentence_embedding":
            raise _refused(path, f"a dense layer of {settings[key]!r}")
    return DenseShape(
        _size(path, settings, "in_features"),
        _size(path, settings, "out_features"),
        bool(settings.get("bias", True)),
        activation,
        bool(settings.get("use_residual", False)),
    )


def _weights(path: str, folder: str) -> dict[str, Tensor]:
    file = model_file(path, f"{folder}/model.safetensors")
    if file is None:
        raise ConfigError(
            f"model.path={path}: {folder} has no model.safetensors; weights are read as "
            "safetensors only"
        )
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from None


def _templates(path: str, settings: Mapping[str, Any]) -> Templates:
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise ConfigError(f"model.path={path}: `prompts` of its {SETTINGS} must map name to text")
    stored = {name: text for name, text in prompts.items() if isinstance(text, str) and text}
    query = next((stored[name] for name in _QUERY_NAMES if name in stored), "")
    passage = next((stored[name] for name in _PASSAGE_NAMES if name in stored), "")
    return Templates.of_prompts(query, passage)


def _tokens(path: str) -> int | None:
    """The longest text that a folder allows."""
    settings = _object(path, SENTENCES)
    if settings.get("do_lower_case"):
        raise _refused(path, "texts in lower case (do_lower_case of its sentence_bert_config.json)")
    limit = settings.get("max_seq_length")
    if limit is None:
        limit = _object(path, TOKENIZER_CONFIG).get("model_max_length")
    return int(limit) if isinstance(limit, int | float) and 1 < limit < UNLIMITED else None


def _size(path: str, settings: Mapping[str, Any], key: str) -> int:
    value = settings.get(key)
    if type(value) is not int or not 1 <= value <= UNLIMITED:
        raise ConfigError(f"model.path={path}: {key} of a dense layer is {value!r}")
    return value


def _object(path: str, name: str) -> dict[str, Any]:
    file = model_file(path, name.removeprefix("/"))
    content = read_json(Path(file)) if file else {}
    if not isinstance(content, dict):
        raise DataError(f"{file}: must be a JSON object")
    return content


def _refused(path: str, what: str) -> ConfigError:
    return ConfigError(f"model.path={path}: declares {what}, which cannot be applied here")
