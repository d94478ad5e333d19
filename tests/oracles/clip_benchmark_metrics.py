"""Recall and zero-shot classification of clip_benchmark."""

import numpy as np
import torch
from clip_benchmark.metrics import (
    image_caption_selection as selection,
)
from clip_benchmark.metrics import (
    zeroshot_classification,
    zeroshot_retrieval,
)

# clip_benchmark calls float() on an array with one value, an error since NumPy 2.5.
zeroshot_classification.float = lambda array: np.asarray(array).item()


def recall_at_k(scores, positives, ks=(1, 5, 10)):
    """Returns recall at each k of the queries (rows) with at least one positive."""
    scores, positives = torch.tensor(scores), torch.tensor(positives)
    has_positive = positives.any(dim=1)
    recalls = []
    for k in ks:
        k = min(int(k), scores.shape[1])
        # The library returns the fraction of positives among the top k.
        fractions = zeroshot_retrieval.recall_at_k(
            scores[has_positive], positives[has_positive], k
        )
        is_hit = fractions > 0
        recalls.append(is_hit.float().mean().item())
    return np.array(recalls)


def retrieval(images, captions, owners):
    """Returns recall at 1, 5 and 10 in both directions.

    Args:
        images: Embeddings (num_images, width).
        captions: Embeddings (num_captions, width).
        owners: Row of each caption's image.
    """
    scores = images @ captions.T
    positives = np.arange(len(images))[:, None] == owners
    return {
        "i2t": recall_at_k(scores, positives),
        "t2i": recall_at_k(scores.T, positives.T),
    }


class _ClipLike:
    """Model with the interface that clip_benchmark needs.

    The token of a text is its row in a table of embeddings.
    """

    def __init__(self, texts, embeddings):
        self.number = {text: number for number, text in enumerate(texts)}
        self.embeddings = torch.tensor(embeddings)

    def tokenize(self, texts):
        return torch.tensor([self.number[text] for text in texts])

    def encode_text(self, tokens):
        return self.embeddings[tokens]


def zero_shot(class_names, templates, texts, embeddings, images, labels):
    """Returns the classifier weights (classes, width) and the top-1 and top-5 accuracy.

    The text encoder is a table of `texts` and their `embeddings`.
    """
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


class _Precomputed:
    """Model whose inputs are embeddings."""

    def encode_image(self, images):
        return images.flatten(1)

    def encode_text(self, tokens):
        return tokens


def image_caption_selection(images, captions):
    """Returns the fractions of correct choices.

    Args:
        images: Embeddings (examples, images of an example, width).
        captions: Embeddings (examples, captions of an example, width).
    """
    # The evaluation expects images with three dimensions, and texts for a tokenizer.
    batch = torch.tensor(images)[:, :, :, None, None]
    texts = [list(example) for example in captions]
    return selection.evaluate(
        _Precomputed(),
        [(batch, texts)],
        lambda rows: torch.tensor(np.stack(rows)),
        device="cpu",
        amp=False,
    )
