"""Three tiny models from scratch: Qwen2 (no BOS), Llama (BOS) and Bert (both directions)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tdro_lightning.retrieval.encoder import Encoder
from tdro_lightning.retrieval.loading import load_encoder
from tdro_lightning.retrieval.tiny import build_tiny_model

SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "a river runs round the old stone bridge at night",
    "green clouds, red birds and blue fish",
    "which bridge does the river pass?",
]
POOLING = {"qwen2": "last", "llama": "last", "bert": "mean"}
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Models this small spend their time in waking threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return SENTENCES


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts of very different lengths, one of them empty."""
    long = " ".join(SENTENCES[i % 4] for i in range(9))
    return [SENTENCES[0], "", long, "fox", SENTENCES[2], "river at night", SENTENCES[0][:20]]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders by family; tests only read them."""
    root = tmp_path_factory.mktemp("models")
    sizes = {"vocabulary": 320, "width": 32, "layers": 2, "heads": 4, "seed": 1}
    build_tiny_model(SENTENCES, root / "qwen2", **sizes)
    _write(root / "llama", _llama_tokenizer(), _llama)
    _write(root / "bert", bert_tokenizer(), _bert)
    return {name: root / name for name in POOLING}


@pytest.fixture(params=sorted(POOLING))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def load(folders: dict[str, Path]) -> Callable[..., Encoder]:
    """`load_encoder` of a family, with settings that a test may change."""

    def loaded(family: str, path: Path | None = None, **changed: object) -> Encoder:
        settings = {"pooling": POOLING[family], "query_tokens": 40, "passage_tokens": 64} | changed
        return load_encoder(str(path or folders[family]), **settings).eval()

    return loaded


def _write(
    folder: Path, tokenizer: PreTrainedTokenizerFast, build: Callable[[int], PreTrainedModel]
) -> None:
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        build(len(tokenizer)).save_pretrained(folder)


def _llama(vocabulary: int) -> LlamaModel:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaModel(
        LlamaConfig(vocab_size=vocabulary, **SIZES, **heads, initializer_range=0.1, pad_token_id=0)
    )


def _bert(vocabulary: int) -> BertModel:
    return BertModel(
        BertConfig(vocab_size=vocabulary, **SIZES, num_attention_heads=4, initializer_range=0.2)
    )


def _llama_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def bert_tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **dict(zip(names, special, strict=True))
    )
