"""Numbers of the tDRO paper (arXiv 2408.10613) as published, by the domain names of its catalogue.

Nothing here was measured by this project.
"""

# Table 7: loss of each domain under the uniform Qwen1.5-0.5B baseline, which is the reference.
BASELINE_LOSSES: dict[str, float] = {
    "agnews": 1.5894,
    "AllNLI": 0.2707,
    "altlex": 0.0163,
    "amazon_review_2018_1m": 2.9479,
    "cnn_dailymail": 0.0465,
    "codesearchnet": 0.8673,
    "dureader": 0.6925,
    "eli5_question_answer": 2.1336,
    "gooaq_pairs": 1.2492,
    "hotpotqa": 1.1098,
    "medmcqa": 2.1148,
    "miracl": 2.2658,
    "mr_tydi_combined": 1.3301,
    "msmarco": 1.3312,
    "nq": 2.1364,
    "quora_duplicates_triplets": 0.1549,
    "searchQA_top5_snippets": 0.6387,
    "sentence-compression": 0.0496,
    "SimpleWiki": 0.0248,
    "squad_pairs": 0.2786,
    "stackexchange_duplicate_questions_title-body_title-body": 1.3679,
    "t2ranking": 1.5815,
    "trivia": 1.8961,
    "xsum": 0.4839,
    "yahoo_answers_title_answer": 3.9257,
}

# Table 8, column tDRO: domain weights after the last of 1000 steps.
DOMAIN_WEIGHTS: dict[str, float] = {
    "agnews": 0.0563,
    "AllNLI": 0.0005,
    "altlex": 0.0006,
    "amazon_review_2018_1m": 0.0425,
    "cnn_dailymail": 0.0009,
    "codesearchnet": 0.0154,
    "dureader": 0.0110,
    "eli5_question_answer": 0.0847,
    "gooaq_pairs": 0.0600,
    "hotpotqa": 0.0131,
    "medmcqa": 0.0940,
    "miracl": 0.1314,
    "mr_tydi_combined": 0.0252,
    "msmarco": 0.0713,
    "nq": 0.0875,
    "quora_duplicates_triplets": 0.0019,
    "searchQA_top5_snippets": 0.0066,
    "sentence-compression": 0.0011,
    "SimpleWiki": 0.0007,
    "squad_pairs": 0.0072,
    "stackexchange_duplicate_questions_title-body_title-body": 0.0472,
    "t2ranking": 0.0885,
    "trivia": 0.0623,
    "xsum": 0.0063,
    "yahoo_answers_title_answer": 0.0838,
}
