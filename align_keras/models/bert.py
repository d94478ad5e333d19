"""BERT's sizes as data."""

# Layers, width, heads, feed-forward width: Turc et al. 2019 and, base and large,
# Devlin et al. 2019.
VARIANTS = {
    "bert_tiny": (2, 128, 2, 512),
    "bert_mini": (4, 256, 4, 1024),
    "bert_medium": (8, 512, 8, 2048),
    "bert_base": (12, 768, 12, 3072),
    "bert_large": (24, 1024, 16, 4096),
    # Wang et al. 2020, "MiniLM".
    "minilm_l6": (6, 384, 12, 1536),
}
