"""Presets of KerasHub's dual encoders with random weights."""

import io

import keras
import keras_hub
import sentencepiece
from keras_hub.src.tokenizers.byte_pair_tokenizer import bytes_to_unicode

_TEXT_LENGTH = 16
_WIDTHS = {"hidden_dim": 32, "num_layers": 2, "num_heads": 2, "intermediate_dim": 48}
KINDS = ("clip", "siglip")


def write_preset(folder, kind, texts):
    """Writes a preset as KerasHub does.

    Args:
        folder: folder, which is created.
        kind: "clip" or "siglip".
        texts: texts from which the tokenizer of SigLIP learns.

    Returns:
        The folder.
    """
    keras.utils.set_random_seed(0)
    parts = _clip() if kind == "clip" else _siglip(texts)
    for part in parts:
        part.save_to_preset(str(folder))
    return folder


def _clip():
    models = keras_hub.models
    letters = list(bytes_to_unicode()[1])
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "do", "dog</w>"]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = models.CLIPTokenizer(
        vocabulary={piece: number for number, piece in enumerate(pieces)},
        merges=["d o", "do g</w>"],
        pad_with_end_token=True,
    )
    converter = keras_hub.layers.CLIPImageConverter(
        image_size=(32, 32),
        scale=[1 / 255 / 0.27, 1 / 255 / 0.26, 1 / 255 / 0.28],
        offset=[-1.8, -1.75, -1.48],
        interpolation="bicubic",
        antialias=True,
        crop_to_aspect_ratio=True,
    )
    vision = models.CLIPVisionEncoder(
        patch_size=8, image_shape=(32, 32, 3), name="vision_encoder", **_WIDTHS
    )
    text = models.CLIPTextEncoder(
        vocabulary_size=len(pieces),
        embedding_dim=32,
        max_sequence_length=_TEXT_LENGTH,
        name="text_encoder",
        **_WIDTHS,
    )
    backbone = models.CLIPBackbone(vision, text, projection_dim=24)
    preprocessor = models.CLIPPreprocessor(
        tokenizer, converter, sequence_length=_TEXT_LENGTH
    )
    return backbone, preprocessor


def _siglip(texts):
    models = keras_hub.models
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=proto,
        vocab_size=120,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
    )
    tokenizer = models.SigLIPTokenizer(proto=proto.getvalue())
    converter = keras_hub.layers.SigLIPImageConverter(
        image_size=(32, 32),
        scale=1 / 127.5,
        offset=-1.0,
        interpolation="bilinear",
        antialias=True,
        crop_to_aspect_ratio=False,
    )
    vision = models.SigLIPVisionEncoder(
        patch_size=8, image_shape=(32, 32, 3), name="vision_encoder", **_WIDTHS
    )
    text = models.SigLIPTextEncoder(
        vocabulary_size=tokenizer.vocabulary_size(),
        embedding_dim=32,
        max_sequence_length=_TEXT_LENGTH,
        projection_dim=32,
        name="text_encoder",
        **_WIDTHS,
    )
    backbone = models.SigLIPBackbone(vision, text)
    preprocessor = models.SigLIPPreprocessor(
        tokenizer, converter, sequence_length=_TEXT_LENGTH, canonicalize_text=True
    )
    return backbone, preprocessor
