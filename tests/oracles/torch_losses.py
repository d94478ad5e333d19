"""Contrastive loss with PyTorch's cross-entropy, and the losses of open_clip."""

import torch


def _with_gradients(compute, *values):
    """Returns the loss and its gradients with respect to the values, a dict."""
    tensors = [
        torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values
    ]
    loss = compute(*tensors)
    loss.backward()
    names = ("images", "texts", "temperature")
    gradients = {
        name: tensor.grad.numpy() for name, tensor in zip(names, tensors, strict=False)
    }
    return {"loss": loss.item()} | gradients


def cross_entropy(images, texts, temperature, smoothing):
    """Returns the loss, summed over both directions, and all gradients."""

    def compute(images, texts, temperature):
        logits = images @ texts.T / temperature
        entropy = torch.nn.CrossEntropyLoss(label_smoothing=float(smoothing))
        labels = torch.arange(len(images))
        return entropy(logits, labels) + entropy(logits.T, labels)

    return _with_gradients(compute, images, texts, temperature)


def open_clip(images, texts, temperature):
    """Returns open_clip's loss, averaged over both directions, and its gradients.

    The gradients are those of the embeddings.
    """
    from open_clip.loss import ClipLoss

    scale = 1 / float(temperature)
    return _with_gradients(
        lambda *features: ClipLoss()(*features, scale), images, texts
    )


def siglip(images, texts, temperature, bias):
    """Returns open_clip's sigmoid loss, and the gradients of all but the bias."""
    from open_clip.loss import SigLipLoss

    def compute(images, texts, temperature):
        return SigLipLoss()(images, texts, 1 / temperature, float(bias))

    return _with_gradients(compute, images, texts, temperature)
