from pathlib import Path

import torch

from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.fingerprint import encoder_fingerprint
from tdro_lightning.models.loading import load_encoder
from tests.made_up import tiny_model


def loaded(folder: Path, **changed: object) -> Encoder:
    settings = {"pooling": "last", "query_tokens": 16, "passage_tokens": 16} | changed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return load_encoder(str(folder), **settings)


def test_the_same_encoder_has_the_same_fingerprint(tiny_folder: Path) -> None:
    encoder = loaded(tiny_folder)
    before = encoder_fingerprint(encoder)
    assert len(before) == 64
    encoder.embed_queries(["red stone", "blue"], "Find it")
    assert encoder_fingerprint(encoder) == before
    assert encoder_fingerprint(loaded(tiny_folder, chunk_tokens=64)) == before
    lora = {"lora": Lora(2, 4, 0.1)}
    adapted = [encoder_fingerprint(loaded(tiny_folder, **lora)) for _ in range(2)]
    assert adapted[0] == adapted[1] != before


def test_what_changes_the_embeddings_changes_the_fingerprint(
    tiny_folder: Path, tmp_path: Path
) -> None:
    tiny_model(tmp_path, seed=1)
    encoders = [
        loaded(tiny_folder),
        loaded(tmp_path),
        loaded(tiny_folder, pooling="mean"),
        loaded(tiny_folder, query_tokens=17),
        loaded(tiny_folder, passage_tokens=17),
        loaded(tiny_folder, dtype="bfloat16"),
        loaded(tiny_folder, attention="eager"),
        loaded(tiny_folder, lora=Lora(2, 4, 0.0)),
        loaded(tiny_folder, lora=Lora(2, 8, 0.0)),
    ]
    nudged, spelled = loaded(tiny_folder), loaded(tiny_folder)
    with torch.no_grad():
        weight = next(nudged.parameters())
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    spelled.tokenizer.tokenizer.backend_tokenizer.post_processor = None
    found = [encoder_fingerprint(encoder) for encoder in (*encoders, nudged, spelled)]
    assert len(set(found)) == 11
