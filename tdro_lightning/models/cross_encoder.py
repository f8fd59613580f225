"""A cross-encoder: one score for a query and a text that a model reads together."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tdro_lightning.errors import ConfigError, InputError
from tdro_lightning.models.fingerprint import hash_model
from tdro_lightning.models.model_files import CONFIG, own_config, refuse_model_code
from tdro_lightning.models.tokens import length_chunks


class CrossEncoder:
    """Reads query and text together and returns a logit.

    Args:
        model: a sequence classifier of one label.
        tokenizer: its tokenizer, with a padding token.
        max_tokens: longest pair in tokens, special tokens included; the longer text is cut first.
        chunk_tokens: padded tokens in one forward pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int,
        chunk_tokens: int,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_tokens = min(max_tokens, tokenizer.model_max_length)
        self.chunk_tokens = chunk_tokens

    @torch.inference_mode()
    def score(self, queries: Sequence[str], texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits [P] of P pairs."""
        encoded = self.tokenizer(
            list(queries),
            list(texts),
            truncation="longest_first",
            max_length=self.max_tokens,
            padding=False,
        )
        lengths = torch.tensor([len(ids) for ids in encoded["input_ids"]])
        scores = torch.empty(len(lengths))
        for rows in length_chunks(lengths, self.chunk_tokens):
            some = {name: [values[row] for row in rows] for name, values in encoded.items()}
            padded = self.tokenizer.pad(some, return_tensors="pt").to(self.model.device)
            scores[rows] = self.model(**padded).logits[:, 0].float().cpu()
        return scores.numpy()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the scores."""
        tokenizer = self.tokenizer.backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        settings = f"{self.model.config.to_json_string()} {self.max_tokens} {tokenizer.to_str()}"
        return hash_model(settings, self.model.state_dict().items())


def is_cross_encoder(path: str) -> bool:
    """Whether a hub name or folder is a sequence classifier; an adapter alone is none.

    Raises:
        ConfigError: there is no such model.
    """
    if Path(path).is_dir() and not (Path(path) / CONFIG).is_file():
        return False
    try:
        refuse_model_code(path)
        config = own_config(path, None)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(_unloaded(path, error)) from None
    kinds = config.architectures or []
    return any(kind.endswith("ForSequenceClassification") for kind in kinds)


def load_cross_encoder(
    path: str, *, max_tokens: int, dtype: str = "float32", chunk_tokens: int = 16384
) -> CrossEncoder:
    """Load a cross-encoder from a hub name or folder, onto the process's GPU where there is one.

    Raises:
        ConfigError: no such model, it has not one label, weights are missing, or it cannot pad.
    """
    try:
        refuse_model_code(path)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path,
            config=own_config(path, None),
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(_unloaded(path, error)) from None
    if model.config.num_labels != 1:
        raise ConfigError(
            f"{path}: a cross-encoder has 1 label, this one has {model.config.num_labels}"
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ConfigError(f"{path}: {len(missing)} weights are missing, first {missing[0]}")
    if tokenizer.pad_token_id is None or model.config.pad_token_id is None:
        raise ConfigError(f"{path}: name a padding token in config.json and tokenizer_config.json")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return CrossEncoder(model.to(device), tokenizer, max_tokens, chunk_tokens)


def _unloaded(path: str, error: Exception) -> str:
    return f"{path}: cannot be loaded ({str(error).strip().splitlines()[0]})"
