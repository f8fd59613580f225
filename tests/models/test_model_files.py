"""Every field of a model folder's files that names code, a repository or a path, with a canary."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.cross_encoder import load_cross_encoder
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_on_shared_base
from tdro_lightning.models.model_files import base_model, refuse_model_code
from tests.made_up import cross_encoder_model
from tests.malformed.models import Touch, set_in, without_hashes

OUTSIDE = "../canary_outside"  # beside the model folder: nothing may open it
CODE = {"AutoModel": "canary_code.Model", "AutoConfig": "canary_code.Model"}
KERNEL = "canary/kernel"
REFUSED: dict[str, list[dict[str, Any]]] = {
    "config.json": [
        {"auto_map": CODE, "model_type": "canary_model"},
        {"text_config": {"auto_map": CODE}},
        {"custom_pipelines": {"x": {"impl": "canary_code.Model", "pt": ["AutoModel"]}}},
        {"custom_generate": KERNEL},
        *({key: KERNEL} for key in ("_attn_implementation", "attn_implementation")),
        {"_attn_implementation_internal": KERNEL},
        {"_attn_implementation": "paged|sdpa"},
        {"attn_implementation": {"": "sdpa", "text_config": f"{KERNEL}@main:run"}},
        {"text_config": {"_attn_implementation": KERNEL}},
        {"kernel_config": {"RMSNorm": KERNEL}},
        {"fusion_config": {"x": True}},
        {"transformers_weights": f"{OUTSIDE}.safetensors"},
        {"configuration_files": ["config.4.0.0.json"]},
        {"quantization_config": {"quant_method": "metal"}},
        {"text_config": {"quantization_config": {"quant_method": "gptq"}}},
        {"backbone": "canary/backbone", "use_pretrained_backbone": True},
        {"use_timm_backbone": True},
        {"gguf_file": f"{OUTSIDE}.gguf"},
        {"tokenizer_class": "PreTrainedModel"},
    ],
    "tokenizer_config.json": [
        {"auto_map": {"AutoTokenizer": ["canary_code.T", None]}},
        {"auto_map": ["canary_code.T", None]},
        *({f"{name}_file": f"{OUTSIDE}.txt"} for name in ("vocab", "merges", "spm")),
        {"vocab": f"{OUTSIDE}.json"},
        {"merges": f"{OUTSIDE}.txt"},
        {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]},
        {"gguf_file": f"{OUTSIDE}.gguf"},
        {"tokenizer_object": f"{OUTSIDE}.json"},
        {"init_inputs": [f"{OUTSIDE}.txt"]},
        *({"tokenizer_class": name} for name in ("pipeline", "AutoModel", 5)),
    ],
    "generation_config.json": [{"auto_map": CODE}, {"custom_generate": KERNEL}],
    "processor_config.json": [{"auto_map": {"AutoProcessor": "canary_code.P"}}],
    "preprocessor_config.json": [{"auto_map": {"AutoFeatureExtractor": "canary_code.P"}}],
}
IGNORED: dict[str, list[dict[str, Any]]] = {
    "config.json": [
        {"_name_or_path": OUTSIDE, "name_or_path": OUTSIDE, "_commit_hash": "0" * 40},
        {"base_model_name_or_path": OUTSIDE, "trust_remote_code": True, "tokenizer": OUTSIDE},
        {"_attn_implementation": "eager"},
        {"auto_map": CODE},  # transformers knows the model type itself
        {"attn_implementation": "flex_attention", "_attn_implementation": "flash_attention_2"},
        {"dtype": "bfloat16", "torch_dtype": "float16", "_attn_implementation_autoset": True},
        {"experts_implementation": None, "auto_map": {}, "quantization_config": None},
    ],
    "tokenizer_config.json": [
        {"tokenizer_file": f"{OUTSIDE}.json", "name_or_path": OUTSIDE, "_commit_hash": "0" * 40},
        {"special_tokens_map_file": f"{OUTSIDE}.json", "added_tokens_file": f"{OUTSIDE}.json"},
        {"chat_template_file": f"{OUTSIDE}.jinja", "tokenizer_config_file": f"{OUTSIDE}.json"},
        {"trust_remote_code": True, "is_local": False, "processor_class": "canary_code.P"},
        {"chat_template": "{{ cycler.__init__.__globals__.os.system('touch canary') }}"},
    ],
    "generation_config.json": [{"_from_model_config": True, "cache_implementation": KERNEL}],
    "processor_config.json": [{"processor_class": "canary_code.P"}],
    "config_sentence_transformers.json": [{"model_type": "canary_code.Model"}],
    "adapter_extra.json": [{"auto_map": CODE}],
}
REFUSED_ADAPTERS: list[dict[str, Any]] = [
    {
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "TEXT",
        "tokenizer_name_or_path": OUTSIDE,
        "tokenizer_kwargs": {"trust_remote_code": True},
    },
    {"peft_type": "XLORA", "adapters": {"a": OUTSIDE}},
    {"peft_type": "MULTITASK_PROMPT_TUNING", "prompt_tuning_init_state_dict_path": OUTSIDE},
    {"megatron_config": {"a": 1}, "megatron_core": "canary_code"},
    {"corda_config": {"cache_file": OUTSIDE, "covariance_file": OUTSIDE}},
    {"lora_ga_config": {"cache_file": OUTSIDE}},
    {"arrow_config": {"task_adapter_names": [OUTSIDE]}},
    {"revision": "other"},
    {"auto_map": CODE},
]
IGNORED_ADAPTERS: list[dict[str, Any]] = [
    {"auto_mapping": {"base_model_class": "Model", "parent_library": "canary_code"}},
    {"megatron_core": "canary_code", "tokenizer_name_or_path": OUTSIDE},
]
touched: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "import") and "canary_" in str(arguments[0]):
        touched.append(f"{event} {arguments[0]}")


sys.addaudithook(_watch)


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A model folder with code beside its files, and what nothing may open beside the folder."""
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(folders["qwen2"], tmp_path / "model")
    for place in (tmp_path, tmp_path / "model"):
        (place / "canary_code.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    for suffix in ("json", "txt", "jinja", "gguf", "safetensors"):
        shutil.copy(folders["qwen2"] / "tokenizer.json", tmp_path / f"canary_outside.{suffix}")
    (tmp_path / "model/pytorch_model.bin").write_bytes(pickle.dumps(Touch(tmp_path / "canary")))
    (tmp_path / "model/custom_generate").mkdir()
    shutil.copy(tmp_path / "canary_code.py", tmp_path / "model/custom_generate/generate.py")
    touched.clear()
    yield tmp_path / "model"
    assert touched == []
    assert not (tmp_path / "canary").exists()


def fields(table: dict[str, list[dict[str, Any]]]) -> list[Any]:
    return [
        pytest.param(file, changes, id=f"{file}: {', '.join(changes)}")
        for file, rows in table.items()
        for changes in rows
    ]


@pytest.mark.parametrize(("file", "changes"), fields(REFUSED))
def test_a_field_that_names_code_or_a_place_is_refused(folder, load, file, changes) -> None:
    set_in(folder / file, **changes)
    with pytest.raises(ConfigError, match=f"its {file} "):
        load("qwen2", folder)


@pytest.mark.parametrize(("file", "changes"), fields(IGNORED))
def test_a_field_that_is_not_followed_changes_nothing(
    folder, load: Callable[..., Encoder], texts, file, changes
) -> None:
    plain = load("qwen2").embed_passages(texts)
    set_in(folder / file, **changes)
    encoder = load("qwen2", folder)
    np.testing.assert_array_equal(encoder.embed_passages(texts), plain)
    assert encoder.backbone.config._attn_implementation == "sdpa"
    assert encoder.backbone.dtype.itemsize == 4


@pytest.mark.parametrize("changes", REFUSED_ADAPTERS, ids=lambda changes: ", ".join(changes))
def test_a_field_of_an_adapter_is_refused(folder, load, tmp_path, changes) -> None:
    encoder = load("qwen2", folder, lora=Lora())
    encoder.save(tmp_path / "adapter")
    without_hashes(tmp_path / "adapter")
    set_in(tmp_path / "adapter/adapter_config.json", **changes)
    with pytest.raises(ConfigError, match=r"its adapter_config\.json "):
        load("qwen2", tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"its adapter_config\.json "):
        load_on_shared_base(encoder, str(tmp_path / "adapter"))


@pytest.mark.parametrize("changes", IGNORED_ADAPTERS, ids=lambda changes: ", ".join(changes))
def test_a_field_of_an_adapter_is_not_followed(folder, load, tmp_path, texts, changes) -> None:
    encoder = load("qwen2", folder, lora=Lora())
    encoder.save(tmp_path / "adapter")
    without_hashes(tmp_path / "adapter")
    set_in(tmp_path / "adapter/adapter_config.json", **changes)
    again = load("qwen2", tmp_path / "adapter")
    np.testing.assert_array_equal(again.embed_passages(texts), encoder.embed_passages(texts))


@pytest.mark.parametrize("named", ["eager", "flex_attention", "flash_attention_2"])
@pytest.mark.parametrize("wanted", ["sdpa", "eager"])
def test_the_configured_attention_decides_and_says_so(folder, load, named, wanted, caplog) -> None:
    set_in(folder / "config.json", _attn_implementation=named)
    encoder = load("qwen2", folder, attention=wanted)
    assert encoder.backbone.config._attn_implementation == wanted
    assert all(
        module.config._attn_implementation == wanted
        for module in encoder.backbone.modules()
        if hasattr(module, "config")
    )
    said = f"names attention {named}; model.attention decides: {wanted}"
    assert (said in caplog.text) == (named != wanted)


def test_a_cross_encoder_is_looked_at_too(tmp_path: Path) -> None:
    cross_encoder_model(tmp_path / "model")
    set_in(tmp_path / "model/config.json", _attn_implementation="eager")
    assert load_cross_encoder(str(tmp_path / "model"), max_tokens=8).model.config.num_labels == 1
    set_in(tmp_path / "model/config.json", _attn_implementation=KERNEL)
    with pytest.raises(ConfigError, match="names the attention 'canary/kernel'"):
        load_cross_encoder(str(tmp_path / "model"), max_tokens=8)


def sharded(folder: Path, name: str) -> None:
    """Name the weights by an index; all but one are in a file of a given name."""
    from safetensors.torch import load_file, save_file

    content = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    first = min(content)
    save_file({first: content.pop(first)}, folder / "first.safetensors", {"format": "pt"})
    save_file(content, folder / "rest.safetensors", {"format": "pt"})
    files = dict.fromkeys(content, name) | {first: "first.safetensors"}
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_of_the_folder_are_read(folder: Path, load, texts) -> None:
    plain = load("qwen2").embed_passages(texts)
    sharded(folder, "rest.safetensors")
    np.testing.assert_array_equal(load("qwen2", folder).embed_passages(texts), plain)


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", f"{OUTSIDE}.safetensors", "/tmp/x.safetensors", "sub/rest.safetensors",
     "missing.safetensors", "./rest.safetensors", ".rest.safetensors", "rest.safetensors\n", "", 5],
)  # fmt: skip
def test_an_index_names_files_of_the_folder_only(folder: Path, load, name) -> None:
    sharded(folder, name)
    with pytest.raises(ConfigError, match=r"its model\.safetensors\.index\.json names"):
        load("qwen2", folder)


@pytest.mark.parametrize("content", [[], {}, {"weight_map": []}])
def test_an_index_that_is_none(folder: Path, load, content) -> None:
    sharded(folder, "rest.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="has no `weight_map`"):
        load("qwen2", folder)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "custom_generate"]
)
def test_links_may_not_leave_the_folder(folder: Path, load, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "moved")
    (folder / name).symlink_to(tmp_path / "moved")
    with pytest.raises(ConfigError, match=f"{name} is a link that leads out of it"):
        load("qwen2", folder)


def test_links_of_the_hub_s_cache_are_followed(folder: Path, load, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a/blobs", tmp_path / "models--a/snapshots/main"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(path for path in folder.iterdir() if path.is_file()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    touched.clear()
    assert load("qwen2", snapshot) is not None
    (folder / "link.safetensors").symlink_to("model.safetensors")
    assert load("qwen2", folder) is not None


def test_a_hub_name_is_looked_at_by_its_cached_files(folder, tmp_path, monkeypatch) -> None:
    cache = tmp_path / "cache/models--me--model"
    (cache / "snapshots/abc").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = cache / "snapshots/abc/config.json"
    shutil.copy(folder / "config.json", config)
    refuse_model_code("me/model")
    set_in(config, custom_generate=KERNEL)
    with pytest.raises(ConfigError, match=r"model\.path=me/model: its config\.json names code"):
        refuse_model_code("me/model")


def test_an_adapter_s_base_is_no_adapter(folder: Path, load, tmp_path: Path) -> None:
    load("qwen2", folder, lora=Lora()).save(tmp_path / "adapter")
    assert base_model(str(tmp_path / "adapter")) == str(folder)
    shutil.copy(tmp_path / "adapter/adapter_config.json", folder)
    with pytest.raises(ConfigError, match="is an adapter itself"):
        base_model(str(tmp_path / "adapter"))
