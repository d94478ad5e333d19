"""Random `transformers.AlignModel`s whose statistics make sense."""

import numpy as np
import torch
from transformers import AlignConfig, AlignModel

TEXT_SIZES = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
}
# Width, depth, projection_dim: narrower than B0; B0; B7.
VISION_SIZES = {"narrow": (0.5, 0.6, 160), "b0": (1.0, 1.0, 320), "b7": (2.0, 3.1, 640)}


def reference_align(size="narrow", temperature=0.07, **text):
    """A random AlignModel in evaluation mode, its batch statistics calibrated.

    A random EfficientNet without calibration loses its signal on the way: two
    float precisions of one model already disagree.
    """
    torch.manual_seed(0)
    width, depth, projection_dim = VISION_SIZES[size]
    config = AlignConfig(
        text_config={**TEXT_SIZES, **text},
        vision_config={"width_coefficient": width, "depth_coefficient": depth},
        projection_dim=projection_dim,
    )
    model = AlignModel(config)
    with torch.no_grad():
        model.temperature.fill_(temperature)
        calibrate(model.vision_model)
        for parameter in model.text_model.parameters():
            if parameter.ndim > 1:  # 0.02 leaves all captions alike.
                parameter.mul_(4.0)
    return model.eval()


def calibrate(vision_model):
    """Fits the moving statistics to noise, with small residual branches."""
    for block in vision_model.encoder.blocks:
        norm = block.projection.project_bn
        residual = block.projection.apply_dropout
        norm.weight.fill_(0.2 if residual else 1.0)
        block.projection.dropout.p = 0.0
    norms = [m for m in vision_model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # The mean over all batches.
        norm.reset_running_stats()
    vision_model.train()
    for _ in range(2):
        vision_model(torch.randn(4, 3, 96, 96))
    vision_model.eval()


def random_pairs(height, width, count=3, length=20, vocabulary_size=200):
    """Pixels in [0, 255] with coarse structure, token ids and padding mask."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 8, 8, 3))
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    images = coarse[:, rows][:, :, columns].astype("float32")
    noise = random.normal(0, 20, images.shape)
    token_ids = random.integers(5, vocabulary_size, (count, length)).astype("int32")
    padding_mask = np.ones((count, length), "int32")
    padding_mask[0, length // 2 :] = 0
    return {
        "images": np.clip(images + noise, 0, 255).astype("float32"),
        "token_ids": token_ids,
        "padding_mask": padding_mask,
    }


def reference_outputs(model, inputs, with_gradients=False):
    """Runs an AlignModel on our inputs; double precision if the model is."""
    dtype = model.temperature.dtype
    pixels = torch.tensor(inputs["images"], dtype=dtype).permute(0, 3, 1, 2)
    with torch.set_grad_enabled(with_gradients):
        return model(
            input_ids=torch.tensor(inputs["token_ids"], dtype=torch.long),
            attention_mask=torch.tensor(inputs["padding_mask"], dtype=torch.long),
            pixel_values=pixels / 127.5 - 1.0,
            return_loss=True,
        )
