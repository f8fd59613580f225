"""Model folders: a small good one, with something wrong in it."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.tiny import build_tiny_model
from tests.made_up import tiny_model
from tests.malformed import Case

LIMITS: dict[str, Any] = {"pooling": "last", "query_tokens": 16, "passage_tokens": 16}


class Touch:
    """A pickle that makes a file when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def loaded(path: Path, lora: Lora | None = None) -> Encoder:
    return load_encoder(str(path), **LIMITS, lora=lora)


def model(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Load a small model with something changed in its folder."""

    def use(folder: Path) -> None:
        tiny_model(folder / "model")
        change(folder / "model")
        loaded(folder / "model")

    return use


def setting(file: str, **changes: Any) -> Callable[[Path], None]:
    return model(lambda folder: set_in(folder / file, **changes))


def set_in(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = load_file(path)
        change(content)
        save_file(content, path, metadata={"format": "pt"})

    return model(changed)


def adapter(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Load a small adapter with something changed in its folder."""

    def use(folder: Path) -> None:
        tiny_model(folder / "model")
        loaded(folder / "model", Lora()).save(folder / "adapter")
        without_hashes(folder / "adapter")
        change(folder)
        loaded(folder / "adapter")

    return use


def saved(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Load a folder of `Encoder.save` with something changed in it."""

    def use(folder: Path) -> None:
        tiny_model(folder / "model")
        loaded(folder / "model").save(folder / "encoder")
        change(folder / "encoder")
        loaded(folder / "encoder")

    return use


def without_hashes(folder: Path) -> None:
    """Describe an encoder as before its files were hashed."""
    described = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps({**described, "sha256": None}))


def permuted(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    numbers = [*list(vocabulary.values())[1:], next(iter(vocabulary.values()))]
    content["model"]["vocab"] = dict(zip(vocabulary, numbers, strict=True))
    (folder / "tokenizer.json").write_text(json.dumps(content))


def token(number: int, special: bool = False) -> Callable[[Path], None]:
    """Add a token with an id of its own to tokenizer.json."""

    def changed(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        content["added_tokens"].append(
            {"id": number, "content": "<more>", **flags, "special": special}
        )
        path.write_text(json.dumps(content))

    return changed


def index(**files: str) -> Callable[[Path], None]:
    """Name the weights by an index in place of their file."""

    def changed(folder: Path) -> None:
        names = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        weights = {name: files.get("all", "a.safetensors") for name in names}
        content = {"metadata": {}, "weight_map": weights}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return model(changed)


def linked(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(folder / "canary")))


def pickled_adapter(folder: Path) -> None:
    (folder / "adapter/adapter_model.safetensors").unlink()
    content = pickle.dumps(Touch(folder / "canary"))
    (folder / "adapter/adapter_model.bin").write_bytes(content)


def code(folder: Path) -> None:
    canary = folder / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Model: ...\n")
    set_in(
        folder / "config.json",
        model_type="evil",
        auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Model"},
    )


def tokenizer_code(folder: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / 'canary')!r}, 'w')\n")
    set_in(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]})


def other_base(folder: Path) -> None:
    shutil.rmtree(folder / "model")
    build_tiny_model(
        ["a b", "c"], folder / "model", vocabulary=300, width=32, layers=1, heads=2, seed=0
    )


def half_an_adapter(folder: Path) -> None:
    path = folder / "adapter/adapter_model.safetensors"
    content = load_file(path)
    content.pop(min(content))
    save_file(content, path)


def cut(file: str, size: int) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / file
        path.write_bytes(path.read_bytes()[:size])

    return model(changed)


BASE = "model.path=model"
OTHER = "names files or code outside the usual ones (`{}`), which are never read; take it out"
CODE = "names code of its own (`auto_map`), which is never run; ..."

CASES = [
    Case("no folder", lambda folder: loaded(folder / "model"), 2, f"{BASE}...: cannot be loaded (...)"),
    Case("a folder of something else", model(lambda f: (f / "config.json").unlink()), 2, f"{BASE}: not a model folder, ..."),
    Case("code in config.json", model(code), 2, f"{BASE}: its config.json {CODE}"),
    Case("code in tokenizer_config.json", model(tokenizer_code), 2, f"{BASE}: its tokenizer_config.json {CODE}"),
    Case("weights as a pickle", model(pickled), 2, f"{BASE}: cannot be loaded (...)"),
    Case("no weights", model(lambda f: (f / "model.safetensors").unlink()), 2, f"{BASE}: cannot be loaded (...)"),
    Case("weights that are cut off", cut("model.safetensors", 2000), 2, f"{BASE}: cannot be loaded (...)"),
    Case("weights of no bytes", cut("model.safetensors", 0), 2, f"{BASE}: cannot be loaded (...)"),
    Case("a weight missing", tensors(lambda t: t.pop("norm.weight")), 2, f"{BASE}: 1 weights are missing from it, first norm.weight"),
    Case("weights of another width", setting("config.json", hidden_size=32), 2, f"{BASE}: cannot be loaded (...)"),
    Case("a width in words", setting("config.json", hidden_size="wide"), 2, f"{BASE}: its config.json has hidden_size 'wide'; it must be ..."),
    Case("no attention heads", setting("config.json", num_attention_heads=0), 2, f"{BASE}: its config.json has num_attention_heads 0; it must be ..."),
    Case("a width of 0", setting("config.json", hidden_size=0), 2, f"{BASE}: its config.json has hidden_size 0; it must be ..."),
    Case("half a layer", setting("config.json", num_hidden_layers=0.5), 2, f"{BASE}: its config.json has num_hidden_layers 0.5; it must be ..."),
    Case("a vocabulary below 0", setting("config.json", vocab_size=-1), 2, f"{BASE}: its config.json has vocab_size -1; it must be ..."),
    Case("more heads than the width", setting("config.json", num_attention_heads=64), 2, f"{BASE}: cannot be loaded (...)"),
    Case("an unknown architecture", setting("config.json", model_type="novel"), 2, f"{BASE}: ..."),
    Case("a config.json that is cut off", cut("config.json", 40), 3, "model/config.json: not valid JSON (...)"),
    Case("a config.json that is a list", model(lambda f: (f / "config.json").write_text("[]")), 2, f"{BASE}: its config.json must be a JSON object"),
    Case("no tokenizer", model(lambda f: (f / "tokenizer.json").unlink()), 2, f"{BASE}: needs a tokenizer.json"),
    Case("a tokenizer.json that is cut off", cut("tokenizer.json", 500), 2, f"{BASE}: ..."),
    Case("a tokenizer without EOS", setting("tokenizer_config.json", eos_token=None), 2, f"{BASE}: the tokenizer has no EOS token, ..."),
    Case("a description without limits", setting("encoder.json", pooling="last"), 3, "model/encoder.json: must have the keys pooling, query_tokens and passage_tokens"),
    Case("another pooling", setting("encoder.json", pooling="first", query_tokens=8, passage_tokens=8), 3, "model/encoder.json: pooling='first', ..."),
    Case("limits of one token", setting("encoder.json", pooling="last", query_tokens=1, passage_tokens=8), 3, "model/encoder.json: pooling='last', query_tokens=1, passage_tokens=8 cannot be; ..."),
    Case("attention from a hub of kernels", setting("config.json", _attn_implementation="kernels-community/x"), 2, f"{BASE}: its config.json names the attention 'kernels-community/x', whose code would be downloaded; ..."),
    Case("quantised weights", setting("config.json", quantization_config={"quant_method": "gptq"}), 2, f"{BASE}: its config.json is of a quantised model (`quantization_config`); ..."),
    Case("quantised weights by another key", setting("config.json", quant_method="gptq"), 2, f"{BASE}: its config.json is of a quantised model (`quant_method`); ..."),
    Case("other weights named in config.json", setting("config.json", transformers_weights="x.safetensors"), 2, f"{BASE}: its config.json {OTHER.format('transformers_weights')}"),
    Case("a vocabulary elsewhere", setting("tokenizer_config.json", vocab_file="/etc/hostname"), 2, f"{BASE}: its tokenizer_config.json {OTHER.format('vocab_file')}"),
    Case("a tokenizer that is a model", setting("tokenizer_config.json", tokenizer_class="PreTrainedModel"), 2, f"{BASE}: its tokenizer_config.json names 'PreTrainedModel', which is no tokenizer"),
    Case("an index that names a pickle", index(all="weights.bin"), 2, f"{BASE}: its model.safetensors.index.json names 'weights.bin'; allowed are ..."),
    Case("an index that leads out of the folder", index(all="../a.safetensors"), 2, f"{BASE}: its model.safetensors.index.json names '../a.safetensors'; ..."),
    Case("weights that are a link elsewhere", model(linked), 2, f"{BASE}: model.safetensors is a link that leads out of it; copy the file"),
    Case("a token with the id of no embedding", model(token(99999)), 2, f"{BASE}: its tokenizer.json gives '<more>' the id 99999, but ..."),
    Case("a token with the id of another", model(token(5)), 2, f"{BASE}: its tokenizer.json gives '<more>' the id 5, but ..."),
    Case("a token more than embeddings", model(token(300)), 2, f"{BASE}: its tokenizer.json gives '<more>' the id 300, but the model has embeddings for 0 to 299"),
    Case("an encoder with another vocabulary", saved(permuted), 3, "encoder/tokenizer.json: is not the file that the encoder was saved with, ..."),
    Case("an adapter of another kind", adapter(lambda f: set_in(f / "adapter/adapter_config.json", peft_type="PROMPT_TUNING")), 2, "model.path=adapter: its adapter_config.json is of kind 'PROMPT_TUNING'; adapters are of kind LORA"),
    Case("an adapter of an adapter", adapter(lambda f: set_in(f / "model/adapter_config.json", peft_type="LORA")), 2, "model.path=adapter: its base model model is an adapter itself"),
    Case("an adapter that names no base", adapter(lambda f: set_in(f / "adapter/adapter_config.json", base_model_name_or_path=None)), 2, "model.path=adapter: its adapter_config.json names no base_model_name_or_path"),
    Case("an adapter whose base is not there", adapter(lambda f: set_in(f / "adapter/adapter_config.json", base_model_name_or_path="/another/machine/model")), 2, "model.path=adapter: its adapter_config.json names the base model /another/machine/model, which is not there; ..."),
    Case("an adapter as a pickle", adapter(pickled_adapter), 2, "model.path=adapter: no adapter_model.safetensors in it; ..."),
    Case("an adapter whose base brings code", adapter(lambda f: code(f / "model")), 2, f"{BASE}: its config.json {CODE}"),
    Case("an adapter of another base", adapter(other_base), 2, "model.path=adapter: the adapter does not fit its base model model (...)"),
    Case("an adapter with a weight missing", adapter(half_an_adapter), 2, "model.path=adapter: the adapter does not fit its base model: 1 weights are missing from it, 0 have no place; ..."),
]  # fmt: skip
