"""What a user of the export does, as a program of its own: `python reader.py REQUEST ANSWER`.

It imports nothing of this project, so that the vectors come from the folder's files alone.

REQUEST is a JSON file: `folder`, `adapter` and `base` (or null), `pooling`, `plain` (whether
transformers alone is enough), `sparse` (whether vectors are sparse), `query_tokens`,
`passage_tokens`, `prompt` and `document_prompt` (what stands before a text), `queries` and
`documents`.
ANSWER is a file of arrays [N, D], named `WAY/queries` and `WAY/documents`.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

BATCH = 8  # texts of unlike length, so that there is padding


def encode_with_sentence_transformers(request: dict[str, Any]) -> dict[str, np.ndarray]:
    """Encode with the folder's own prompts, in batches and one by one."""
    from sentence_transformers import SentenceTransformer, SparseEncoder, __version__

    model: Any = (SparseEncoder if request["sparse"] else SentenceTransformer)(
        request["folder"], device="cpu"
    )
    way = f"sentence-transformers {__version__}"
    arrays = {f"{way}/documents": model.encode_document(request["documents"], batch_size=BATCH)}
    model.max_seq_length = request["query_tokens"]
    arrays[f"{way}/queries"] = model.encode_query(request["queries"], batch_size=BATCH)
    arrays[f"{way}, one by one/queries"] = model.encode(request["queries"], "query", batch_size=1)
    if request["sparse"]:
        return {name: rows.to_dense().numpy() for name, rows in arrays.items()}
    return arrays


def encode_with_transformers(
    request: dict[str, Any], folder: str, model: Any, way: str
) -> dict[str, np.ndarray]:
    """Encode as the model card says."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    queries = [request["prompt"] + query for query in request["queries"]]
    documents = [request["document_prompt"] + document for document in request["documents"]]
    arrays = {}
    for name, texts in (("queries", queries), ("documents", documents)):
        limit = request["query_tokens" if name == "queries" else "passage_tokens"]
        batches = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
        vectors = [
            embed_texts(model, tokenizer, batch, limit, request["pooling"]) for batch in batches
        ]
        arrays[f"{way}/{name}"] = torch.cat(vectors).numpy()
    return arrays


@torch.inference_mode()
def embed_texts(
    model: Any, tokenizer: Any, texts: list[str], limit: int, pooling: str
) -> torch.Tensor:
    """Unit vectors of texts padded on the right."""
    batch = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
    states, mask = model(**batch).last_hidden_state, batch["attention_mask"]
    if pooling == "last":
        return normalize(states[torch.arange(len(states)), mask.sum(1) - 1], dim=-1)
    if pooling == "cls":
        return normalize(states[:, 0], dim=-1)
    weights = mask.unsqueeze(-1).float()
    return normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def main(request_path: str, answer_path: str) -> None:
    """Load the folders in every way, one after the other, and write what they give."""
    with open(request_path, encoding="utf-8") as stream:
        request = json.load(stream)
    arrays = encode_with_sentence_transformers(request)
    if not request["plain"]:
        np.savez(answer_path, **arrays)  # type: ignore[arg-type]
        return
    model = AutoModel.from_pretrained(request["folder"]).eval()
    arrays |= encode_with_transformers(request, request["folder"], model, "transformers")
    if request["adapter"] is not None:
        from peft import PeftModel

        del model  # there may be no room for both
        base = AutoModel.from_pretrained(request["base"], dtype=torch.float32, use_safetensors=True)
        model = PeftModel.from_pretrained(base, request["adapter"]).eval()
        arrays |= encode_with_transformers(request, request["adapter"], model, "peft")
    np.savez(answer_path, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
