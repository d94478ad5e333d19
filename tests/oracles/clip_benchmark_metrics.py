"""Recall and zero-shot classification by clip_benchmark."""

import numpy as np
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

# Its float(array of one number) is an error in NumPy from 2.5 on.
zeroshot_classification.float = lambda array: np.asarray(array).item()


def recall_at_k(scores, positives, ks=(1, 5, 10)):
    """Recall at each k, of the queries (rows) that have any positive."""
    scores, positives = torch.tensor(scores), torch.tensor(positives)
    kept = positives.any(dim=1)
    recalls = []
    for k in ks:
        k = min(int(k), scores.shape[1])
        # What it counts is how many positives are among the k first.
        found = zeroshot_retrieval.recall_at_k(scores[kept], positives[kept], k) > 0
        recalls.append(found.float().mean().item())
    return np.array(recalls)


def retrieval(images, captions, owners):
    """Recall at 1, 5 and 10 both ways; `owners` is each caption's image."""
    scores = images @ captions.T
    right = np.arange(len(images))[:, None] == owners
    return {"i2t": recall_at_k(scores, right), "t2i": recall_at_k(scores.T, right.T)}


class _ClipLike:
    """A model as clip_benchmark takes it; a token is a text's number."""

    def __init__(self, texts, embeddings):
        self.number = {text: number for number, text in enumerate(texts)}
        self.embeddings = torch.tensor(embeddings)

    def tokenize(self, texts):
        return torch.tensor([self.number[text] for text in texts])

    def encode_text(self, tokens):
        return self.embeddings[tokens]


def zero_shot(class_names, templates, texts, embeddings, images, labels):
    """A row a class, of an encoder that is a table of texts, and the accuracies."""
    model = _ClipLike(map(str, texts), embeddings)
    classes = zeroshot_classification.zero_shot_classifier(
        model,
        model.tokenize,
        list(map(str, class_names)),
        list(map(str, templates)),
        device="cpu",
        amp=False,
    )
    logits = torch.tensor(images).double() @ classes.double()
    accuracy = zeroshot_classification.accuracy(
        logits, torch.tensor(labels), topk=(1, 5)
    )
    return {"classes": classes.numpy().T, "accuracies": np.array(accuracy)}
