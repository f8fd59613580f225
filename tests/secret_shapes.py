"""Made-up secrets in the shapes of real ones, each with `SESAME` in it where its shape allows."""

A = "SESAMEaB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xYzA1bC2dE3"  # letters and digits of both cases
LOWER = "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607182"  # hexadecimal


def of(prefix: str, rest: str) -> str:
    """A shape, written in two halves so that scanners of this repository see no token."""
    return prefix + rest


SHAPES = {
    "Hugging Face": of("hf", "_" + A[:34]),
    "Hugging Face, organisation": of("api_org", "_" + A[:34]),
    "OpenAI": of("sk", "-" + A[:40]),
    "OpenAI, project": of("sk", "-proj-" + A[:40] + "_x-y"),
    "Anthropic": of("sk", "-ant-api03-" + A[:40] + "-AA"),
    "GitHub": of("ghp", "_" + A[:36]),
    "GitHub, server": of("ghs", "_" + A[:36]),
    "GitHub, fine-grained": of("github", "_pat_" + A[:22] + "_" + A),
    "GitLab": of("glpat", "-" + A[:20]),
    "Slack, bot": of("xoxb", "-123456789012-" + A[:24]),
    "Slack, app": of("xapp", "-1-A012-" + A[:24]),
    "Slack, webhook": of("https://hooks.slack", ".com/services/T0123/B0123/" + A[:24]),
    "Discord, webhook": of("https://discord", ".com/api/webhooks/123456/" + A[:40]),
    "W&B": of("wandb", "_v1_" + A[:22] + "_" + A),
    "W&B, older": LOWER[:40],
    "AWS, id": of("AKIA", "SESAME0123456789"),
    "AWS, key": of("SESAMEtnFEMI", "/K7MDENG+bPxRfiCY3XAMPLEKEYx"),
    "Google, API": of("AIza", A[:35]),
    "Google, OAuth": of("ya29", "." + A),
    "Google, client": of("GOCSPX", "-" + A[:28]),
    "Azure, account": of("Account", "Key=" + A + "=="),
    "JSON web token": of("eyJ", "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0." + A[:43]),
    "private key": of("-----BEGIN RSA PRIVATE", f" KEY-----\n{A}\n-----END RSA PRIVATE KEY-----"),
    "private key, cut off": of("-----BEGIN PRIVATE", f" KEY----- {A}"),
    "age": of("AGE-SECRET", "-KEY-1" + A.upper()),
    "Stripe": of("sk_live", "_" + A[:24]),
    "SendGrid": of("SG.", A[:22] + "." + A[:43]),
    "Twilio": of("SK", LOWER[:32]),
    "npm": of("npm", "_" + A[:36]),
    "PyPI": of("pypi-AgE", "IcHlwaS5vcmc" + A),
    "DigitalOcean": of("dop_v1", "_" + LOWER),
    "Databricks": of("dapi", LOWER[:32]),
    "Docker": of("dckr_pat", "_" + A[:27]),
    "Vault": of("hvs", "." + A[:24]),
    "Groq": of("gsk", "_" + A),
    "Replicate": of("r8", "_" + A[:37]),
    "Grafana": of("glsa", "_" + A[:32] + "_0a1b2c3d"),
    "Shopify": of("shpat", "_" + LOWER[:32]),
    "New Relic": of("NRAK", "-" + A[:27]),
    "Mailgun": of("key", "-" + LOWER[:32]),
    "Telegram": of("1234567890", ":" + A[:35]),
    "header": of("Authorization: Bear", "er " + A[:30]),
    "user and password": "https://me:" + A[:12] + "@host/path",
    "user alone": "https://" + A[:12] + "@host/path",
    "signed address": "https://host/x?sv=2&sig=" + A[:24] + "%3D",
    "query token": "https://host/x?a=b&access_token=" + A[:24],
    "signed by S3": "s3://host/x?X-Amz-Signature=" + LOWER,
    "named key": "my api_key=" + A[:12],
}
# In a path these cannot be distinguished from a commit and from names of folders.
NOT_IN_PATHS = ("W&B, older", "AWS, key")

NO_SECRETS = (
    "sentence-transformers/all-MiniLM-L6-v2",
    "Qwen/Qwen3-Embedding-0.6B",
    "slovak/sk-quora-retrieval-multilingual-base",
    "intfloat/multilingual-e5-large-instruct",
    "hf-internal-testing/tiny-random-bert",
    "hf://datasets/mteb/nfcorpus@main",
    "/home/Me2/Models/Checkpoints/Final/Run7/encoder",
    "runs/demo/2026-01-02_03-04-05/reference/encoder/model.safetensors",
    "/hub/models--Qwen--Qwen2/snapshots/" + LOWER[:40],
    "file:///data/rows.jsonl",
    "git+ssh://git@github.com/user/repo",
    "https://huggingface.co/datasets/mteb/nfcorpus?page=2#token",
    "Given a question, retrieve passages that answer it (basic facts: tokens, keys, secrets)",
    "Find the password reset page; the key = value pairs of a config, a token per line",
    "Represent this sentence for searching relevant passages: ",
    "sha256 " + "0a1b2c3d" * 8,
    "S2ORC_title-abstract",
    "MultiLongDoc20240101ABCDEFabcdefghijklmn",
)
