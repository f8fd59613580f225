"""Model folders: a small good one, with something wrong in it."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tdro_lightning.retrieval.adapter import Lora
from tdro_lightning.retrieval.encoder import Encoder
from tdro_lightning.retrieval.loading import load_encoder
from tdro_lightning.retrieval.tiny import build_tiny_model
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
        change(folder)
        loaded(folder / "adapter")

    return use


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
    set_in(folder / "config.json", auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Model"})


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
    Case("a width in words", setting("config.json", hidden_size="wide"), 2, f"{BASE}: cannot be loaded (...)"),
    Case("an unknown architecture", setting("config.json", model_type="novel"), 2, f"{BASE}: ..."),
    Case("a config.json that is cut off", cut("config.json", 40), 3, "model/config.json: not valid JSON (...)"),
    Case("a config.json that is a list", model(lambda f: (f / "config.json").write_text("[]")), 2, f"{BASE}: its config.json must be a JSON object"),
    Case("no tokenizer", model(lambda f: (f / "tokenizer.json").unlink()), 2, f"{BASE}: needs a tokenizer.json"),
    Case("a tokenizer.json that is cut off", cut("tokenizer.json", 500), 2, f"{BASE}: ..."),
    Case("a tokenizer without EOS", setting("tokenizer_config.json", eos_token=None), 2, f"{BASE}: the tokenizer has no EOS token, ..."),
    Case("a description without limits", setting("encoder.json", pooling="last"), 3, "model/encoder.json: must have the keys pooling, query_tokens and passage_tokens"),
    Case("another pooling", setting("encoder.json", pooling="max", query_tokens=8, passage_tokens=8), 3, "model/encoder.json: pooling='max', ..."),
    Case("an adapter that names no base", adapter(lambda f: set_in(f / "adapter/adapter_config.json", base_model_name_or_path=None)), 2, "model.path=adapter: its adapter_config.json names no base_model_name_or_path"),
    Case("an adapter as a pickle", adapter(pickled_adapter), 2, "model.path=adapter: no adapter_model.safetensors in it; ..."),
    Case("an adapter whose base brings code", adapter(lambda f: code(f / "model")), 2, f"{BASE}: its config.json {CODE}"),
    Case("an adapter of another base", adapter(other_base), 2, "model.path=adapter: the adapter does not fit its base model model (...)"),
    Case("an adapter with a weight missing", adapter(half_an_adapter), 2, "model.path=adapter: the adapter does not fit its base model: 1 weights are missing from it, 0 have no place; ..."),
]  # fmt: skip
