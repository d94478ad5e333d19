"""`transformers.AlignModel`, its processor, and other models and tokenizers there."""

import json

import numpy as np
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import AlignConfig, AlignModel, AlignProcessor

TEXT_SIZES = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
}
# Width, depth, projection_dim. In transformers each stage must be wider than the one
# before, which half of B0 is.
VISION_SIZES = {
    "tiny": (0.5, 0.3, 160),
    "narrow": (0.5, 0.6, 160),
    "b0": (1.0, 1.0, 320),
    "b7": (2.0, 3.1, 640),
}


def write_align(folder, size, dtype="float32", draw=None, **text):
    """Saves a random AlignModel, its batch statistics calibrated.

    `draw(name, shape)` gives its matrices and kernels in place of torch's generator.

    A random EfficientNet without calibration loses its signal on the way: two
    float precisions of one model already disagree.
    """
    torch.manual_seed(0)
    width, depth, projection_dim = VISION_SIZES[size]
    model = AlignModel(align_config(width, depth, projection_dim, text))
    with torch.no_grad():
        model.temperature.fill_(0.07)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and draw:
                parameter.copy_(torch.tensor(draw(name, tuple(parameter.shape))))
            elif parameter.ndim > 1 and name.startswith("text_model."):
                parameter.mul_(4.0)  # 0.02 leaves all captions alike.
        _calibrate(model.vision_model)
    model.to(getattr(torch, dtype)).save_pretrained(folder)


def align_config(width, depth, projection_dim, text):
    return AlignConfig(
        text_config={**TEXT_SIZES, **text},
        vision_config={"width_coefficient": width, "depth_coefficient": depth},
        projection_dim=projection_dim,
    )


def _calibrate(vision_model):
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


def _run(model, images, token_ids, padding_mask):
    """An AlignModel on this package's inputs, in the model's precision."""
    pixels = torch.tensor(images, dtype=model.temperature.dtype).permute(0, 3, 1, 2)
    return model(
        input_ids=torch.tensor(token_ids, dtype=torch.long),
        attention_mask=torch.tensor(padding_mask, dtype=torch.long),
        pixel_values=pixels / 127.5 - 1.0,
        return_loss=True,
    )


def _opened(folder):
    """A folder's AlignModel in double precision."""
    return AlignModel.from_pretrained(folder).double().eval()


def outputs(folder, images, token_ids, padding_mask):
    """Embeddings, logits and loss."""
    with torch.no_grad():
        found = _run(_opened(folder), images, token_ids, padding_mask)
    names = ("image_embeds", "text_embeds", "logits_per_image", "loss")
    return {name: found[name].numpy() for name in names}


def gradients(folder, images, token_ids, padding_mask):
    """The loss's gradient by each parameter's name."""
    model = _opened(folder)
    _run(model, images, token_ids, padding_mask).loss.backward()
    return {
        name: parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def tensors(folder):
    """A folder's weights and statistics in float32, as AlignModel opens it."""
    state = AlignModel.from_pretrained(folder).state_dict()
    return {name: value.float().numpy() for name, value in state.items()}


def flops(size, text, images, token_ids, padding_mask):
    """Floating-point operations of an AlignModel on such inputs."""
    model = AlignModel(align_config(*VISION_SIZES[size], text)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _run(model, images, token_ids, padding_mask)
    return counter.get_total_flops()


def processed_captions(folder, captions, **options):
    """Token ids and mask by a folder's AlignProcessor."""
    processor = AlignProcessor.from_pretrained(folder)
    found = processor(text=captions, return_tensors="np", **options)
    return {"token_ids": found["input_ids"], "padding_mask": found["attention_mask"]}


def processed_images(folder, images):
    """Pixels (3, S, S) of each image by a folder's AlignProcessor."""
    processor = AlignProcessor.from_pretrained(folder).image_processor
    return [processor(own, return_tensors="np")["pixel_values"][0] for own in images]


def save_processor(folder, vocabulary_file, options):
    """Saves an AlignProcessor; returns the settings of its image processor."""
    images = transformers.EfficientNetImageProcessor(resample=2, **options)
    tokenizer = transformers.BertTokenizerFast(str(vocabulary_file))
    AlignProcessor(images, tokenizer).save_pretrained(folder)
    return json.loads(images.to_json_string())


def image_embeddings(folder, images):
    """Unit embeddings of images by a folder's AlignProcessor and AlignModel."""
    model = AlignModel.from_pretrained(folder).eval()
    features = []
    for pixels in processed_images(folder, images):
        with torch.no_grad():
            output = model.vision_model(pixel_values=torch.tensor(pixels)[None])
        features.append(output.pooler_output)
    return torch.nn.functional.normalize(torch.cat(features)).numpy()


def efficientnet_pixels(folder, options, image):
    """Saves EfficientNet's image processor; returns an image's pixels (3, S, S)."""
    processor = transformers.EfficientNetImageProcessor(resample=2, **options)
    processor.save_pretrained(folder)
    return processor(image, return_tensors="np")["pixel_values"][0]


def bert_token_ids(vocabulary_file, captions, length, lower, slow=False):
    """Ids by BERT's tokenizer in Rust, or by the slow one in Python."""
    kind = _slow_bert_tokenizer() if slow else transformers.BertTokenizerFast
    tokenizer = kind(vocabulary_file, do_lower_case=lower)
    options = {"max_length": length, "truncation": True, "padding": "max_length"}
    return np.array(tokenizer(captions, **options)["input_ids"])


def _slow_bert_tokenizer():
    try:
        from transformers.models.bert.tokenization_bert_legacy import (
            BertTokenizerLegacy,
        )
    except ImportError:  # transformers 4
        return transformers.BertTokenizer
    return BertTokenizerLegacy


def sentence_embeddings(folder, captions):
    """Unit embeddings by a folder's BertModel, the mean over each caption's tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(captions, padding=True, return_tensors="pt")
    model = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        sequence = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][:, :, None]
    found = (sequence * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(found).numpy()
