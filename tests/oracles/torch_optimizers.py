"""Optimizers of PyTorch."""

import torch


def sgd(start, gradients, rate, momentum, nesterov, weight_decays):
    """Applies gradients with PyTorch's SGD, separately for each weight decay.

    Returns:
        Final weights (num_weight_decays, ...).
    """
    weights = [torch.nn.Parameter(torch.tensor(start)) for _ in weight_decays]
    groups = [
        {"params": [weight], "weight_decay": float(decay)}
        for weight, decay in zip(weights, weight_decays, strict=True)
    ]
    optimizer = torch.optim.SGD(
        groups, lr=float(rate), momentum=float(momentum), nesterov=bool(nesterov)
    )
    for gradient in torch.tensor(gradients):
        for weight in weights:
            weight.grad = gradient.clone()
        optimizer.step()
    return torch.stack([weight.detach() for weight in weights]).numpy()
