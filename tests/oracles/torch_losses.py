"""The contrastive loss by PyTorch's own cross-entropy, and open_clip's losses."""

import torch


def _with_gradients(compute, *values):
    tensors = [
        torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values
    ]
    loss = compute(*tensors)
    loss.backward()
    names = ("images", "texts", "temperature")
    gradients = zip(names, tensors, strict=False)
    return {"loss": loss.item()} | {name: own.grad.numpy() for name, own in gradients}


def cross_entropy(images, texts, temperature, smoothing):
    """The sum of both directions, and the gradients by each argument."""

    def compute(images, texts, temperature):
        logits = images @ texts.T / temperature
        entropy = torch.nn.CrossEntropyLoss(label_smoothing=float(smoothing))
        labels = torch.arange(len(images))
        return entropy(logits, labels) + entropy(logits.T, labels)

    return _with_gradients(compute, images, texts, temperature)


def open_clip(images, texts, temperature):
    """open_clip's loss, the mean of both directions, and the embeddings' gradients."""
    from open_clip.loss import ClipLoss

    scale = 1 / float(temperature)
    return _with_gradients(lambda *own: ClipLoss()(*own, scale), images, texts)


def siglip(images, texts, temperature, bias):
    """open_clip's sigmoid loss, and the gradients by each argument but the bias."""
    from open_clip.loss import SigLipLoss

    def compute(images, texts, temperature):
        return SigLipLoss()(images, texts, 1 / temperature, float(bias))

    return _with_gradients(compute, images, texts, temperature)
