"""Training data in the layouts of other projects."""

LAYOUTS = ("tdro", "sentence_transformers", "flag_embedding", "beir", "tevatron")
