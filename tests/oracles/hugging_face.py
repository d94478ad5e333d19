"""`transformers.AlignModel`, its processor, and BERT models and tokenizers."""

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
# Width coefficient, depth coefficient and projection_dim. transformers needs each stage
# to be wider than the one before. A width coefficient of 0.5 meets this condition.
VISION_SIZES = {
    "tiny": (0.5, 0.3, 160),
    "narrow": (0.5, 0.6, 160),
    "b0": (1.0, 1.0, 320),
    "b7": (2.0, 3.1, 640),
}


def write_align(folder, size, dtype="float32", draw=None, **text):
    """Saves a random AlignModel with calibrated batch statistics.

    The signal of a random EfficientNet fades without calibration, so that two float
    precisions of the same model disagree.

    Args:
        folder: Path of the folder.
        size: Key of `VISION_SIZES`.
        dtype: Name of the torch dtype of the saved weights.
        draw: Function of (name, shape) that draws matrices and kernels. None uses the
            generator of torch.
        **text: Options of the text model that replace those in `TEXT_SIZES`.
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
                # The default deviation of 0.02 makes all captions similar.
                parameter.mul_(4.0)
        _calibrate(model.vision_model)
    model.to(getattr(torch, dtype)).save_pretrained(folder)


def align_config(width, depth, projection_dim, text):
    return AlignConfig(
        text_config={**TEXT_SIZES, **text},
        vision_config={"width_coefficient": width, "depth_coefficient": depth},
        projection_dim=projection_dim,
    )


def _calibrate(vision_model):
    """Sets the moving statistics to those of noise.

    Residual branches get smaller weights, so that the signal does not grow from block
    to block.
    """
    for block in vision_model.encoder.blocks:
        norm = block.projection.project_bn
        residual = block.projection.apply_dropout
        norm.weight.fill_(0.2 if residual else 1.0)
        block.projection.dropout.p = 0.0
    norms = [m for m in vision_model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        # If the momentum is None, torch averages the statistics over all batches.
        norm.momentum = None
        norm.reset_running_stats()
    vision_model.train()
    for _ in range(2):
        vision_model(torch.randn(4, 3, 96, 96))
    vision_model.eval()


def _run(model, images, token_ids, padding_mask):
    """Calls an AlignModel with inputs of this package, in the model's precision."""
    pixels = torch.tensor(images, dtype=model.temperature.dtype).permute(0, 3, 1, 2)
    return model(
        input_ids=torch.tensor(token_ids, dtype=torch.long),
        attention_mask=torch.tensor(padding_mask, dtype=torch.long),
        pixel_values=pixels / 127.5 - 1.0,
        return_loss=True,
    )


def _open_model(folder):
    """Returns the AlignModel of a folder in double precision."""
    return AlignModel.from_pretrained(folder).double().eval()


def outputs(folder, images, token_ids, padding_mask):
    """Returns the embeddings, logits and loss of an AlignModel."""
    with torch.no_grad():
        result = _run(_open_model(folder), images, token_ids, padding_mask)
    names = ("image_embeds", "text_embeds", "logits_per_image", "loss")
    return {name: result[name].numpy() for name in names}


def gradients(folder, images, token_ids, padding_mask):
    """Returns a dict of parameter name → gradient of the loss."""
    model = _open_model(folder)
    _run(model, images, token_ids, padding_mask).loss.backward()
    return {
        name: parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def tensors(folder):
    """Returns the weights and statistics of a folder's AlignModel in float32."""
    state = AlignModel.from_pretrained(folder).state_dict()
    return {name: value.float().numpy() for name, value in state.items()}


def flops(size, text, images, token_ids, padding_mask):
    """Counts the floating-point operations of an AlignModel."""
    model = AlignModel(align_config(*VISION_SIZES[size], text)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _run(model, images, token_ids, padding_mask)
    return counter.get_total_flops()


def processed_captions(folder, captions, **options):
    """Returns the token ids and mask of a folder's AlignProcessor."""
    processor = AlignProcessor.from_pretrained(folder)
    tokens = processor(text=captions, return_tensors="np", **options)
    return {"token_ids": tokens["input_ids"], "padding_mask": tokens["attention_mask"]}


def processed_images(folder, images):
    """Returns the pixels (3, S, S) of each image from a folder's AlignProcessor."""
    processor = AlignProcessor.from_pretrained(folder).image_processor
    return [
        processor(image, return_tensors="np")["pixel_values"][0] for image in images
    ]


def save_processor(folder, vocabulary_file, options):
    """Saves an AlignProcessor. Returns the settings of its image processor."""
    images = transformers.EfficientNetImageProcessor(resample=2, **options)
    tokenizer = transformers.BertTokenizerFast(str(vocabulary_file))
    AlignProcessor(images, tokenizer).save_pretrained(folder)
    return json.loads(images.to_json_string())


def image_embeddings(folder, images):
    """Returns unit image embeddings of the processor and AlignModel in a folder."""
    model = AlignModel.from_pretrained(folder).eval()
    features = []
    for pixels in processed_images(folder, images):
        with torch.no_grad():
            output = model.vision_model(pixel_values=torch.tensor(pixels)[None])
        features.append(output.pooler_output)
    return torch.nn.functional.normalize(torch.cat(features)).numpy()


def efficientnet_pixels(folder, options, image):
    """Saves an EfficientNetImageProcessor. Returns its pixels (3, S, S) of an image."""
    processor = transformers.EfficientNetImageProcessor(resample=2, **options)
    processor.save_pretrained(folder)
    return processor(image, return_tensors="np")["pixel_values"][0]


def bert_token_ids(vocabulary_file, captions, length, lower, slow=False):
    """Returns token ids of BERT's fast tokenizer, or of its slow Python tokenizer."""
    kind = _slow_bert_tokenizer() if slow else transformers.BertTokenizerFast
    tokenizer = kind(vocabulary_file, do_lower_case=lower)
    options = {"max_length": length, "truncation": True, "padding": "max_length"}
    return np.array(tokenizer(captions, **options)["input_ids"])


def _slow_bert_tokenizer():
    try:
        from transformers.models.bert.tokenization_bert_legacy import (
            BertTokenizerLegacy,
        )
    except ImportError:
        # transformers 4 has no separate class.
        return transformers.BertTokenizer
    return BertTokenizerLegacy


def sentence_embeddings(folder, captions):
    """Returns normalized mean outputs of the BertModel in a folder for each caption."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(captions, padding=True, return_tensors="pt")
    model = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        sequence = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][:, :, None]
    means = (sequence * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(means).numpy()
