"""Training data in the layouts of other projects."""

LAYOUTS = ("tdro", "sentence_transformers", "flag_embedding", "beir", "tevatron")
ROLES = ("query_id", "query", "positive")  # of columns, besides negative, negative_1, ...
