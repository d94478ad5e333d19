"""Contrastive loss with PyTorch's cross-entropy, and the losses of open_clip."""

import concurrent.futures
import importlib.util
import multiprocessing
import pathlib
import tempfile

import numpy as np
import torch
import torch.distributed.nn


def _with_gradients(compute, *values):
    """Returns the loss and its gradients with respect to the values, a dict."""
    tensors = [
        torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values
    ]
    loss = compute(*tensors)
    loss.backward()
    names = ("images", "texts", "temperature", "bias")
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
    """Returns open_clip's sigmoid loss and all gradients."""
    from open_clip.loss import SigLipLoss

    def compute(images, texts, temperature, bias):
        return SigLipLoss()(images, texts, 1 / temperature, bias)

    return _with_gradients(compute, images, texts, temperature, bias)


# Methods by which the processes of open_clip exchange their captions.
EXCHANGES = ("bidir", "shift", "reduce", "gather")


def siglip_replicas(images, texts, temperature, bias, replicas):
    """Returns open_clip's sigmoid loss of several processes, and all gradients.

    The loss is the mean over the processes. The first axis of each result has one entry
    for each of `EXCHANGES`.
    """
    replicas = int(replicas)
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ProcessPoolExecutor(
            replicas, multiprocessing.get_context("spawn")
        ) as processes,
    ):
        calls = [
            processes.submit(
                _siglip_replica,
                pathlib.Path(folder, "store").as_uri(),
                rank,
                replicas,
                np.array_split(images, replicas)[rank],
                np.array_split(texts, replicas)[rank],
                temperature,
                bias,
            )
            for rank in range(replicas)
        ]
        parts = [call.result() for call in calls]
    # The gradients of embeddings are those of the rows of one process.
    results = {
        name: np.concatenate([part[name] for part in parts], axis=1) / replicas
        for name in ("images", "texts")
    }
    for name in ("loss", "temperature", "bias"):
        results[name] = np.mean([part[name] for part in parts], axis=0)
    return results


def _siglip_replica(store, rank, replicas, *values):
    """Returns the results of one process, with an entry for each of `EXCHANGES`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=replicas
    )
    # The module is read from its file, because each process would need 10 seconds to
    # import the package.
    (folder,) = importlib.util.find_spec("open_clip").submodule_search_locations
    path = pathlib.Path(folder, "loss.py")
    losses = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location("open_clip_loss", path)
    )
    losses.__spec__.loader.exec_module(losses)
    results = []
    for exchange in EXCHANGES:
        loss = losses.SigLipLoss(rank=rank, world_size=replicas, dist_impl=exchange)

        def compute(images, texts, temperature, bias, loss=loss):
            return loss(images, texts, 1 / temperature, bias)

        results.append(_with_gradients(compute, *values))
    torch.distributed.destroy_process_group()
    return {name: np.stack([part[name] for part in results]) for name in results[0]}
