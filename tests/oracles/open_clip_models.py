"""Small open_clip models with random weights, exported in the ONNX layout of immich."""

import dataclasses
import functools
import json
import pathlib

import numpy as np
import open_clip
import tokenizers
import torch
import transformers
from open_clip import tokenizer as open_clip_tokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

_SENTENCES = (
    "a red bicycle in front of an old house, two dogs and a cat",
    "красный велосипед перед старым домом, две собаки и кошка",
    "一辆红色的自行车停在老房子前面，两只狗和一只猫",
    "دراجة حمراء أمام منزل قديم وكلبان وقطة",
    "ένα κόκκινο ποδήλατο μπροστά σε ένα παλιό σπίτι",
)
_EMBED_DIM = 64
_HALF = (0.5, 0.5, 0.5)
_VIT = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
_TEXT = {"width": 64, "heads": 2, "layers": 2}
_CLIP_TEXT = {"context_length": 77, "vocab_size": 49408, **_TEXT}
_SIGLIP_TEXT = {
    "context_length": 64,
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    **_TEXT,
}
_SIGLIP_VISION = {
    "timm_model_name": "test_vit",
    "timm_model_pretrained": False,
    "timm_pool": "map",
    "timm_proj": "none",
    "image_size": 160,
}


@dataclasses.dataclass(frozen=True)
class _Kind:
    """Architecture and layout of a model.

    Attributes:
        vision: `vision_cfg` of open_clip.
        text: `text_cfg` of open_clip.
        preprocess: fields of `PreprocessCfg`.
        tokenizer: name of the function that makes the tokenizer, or "" for CLIP's.
        takes_pixels: True if the graph contains the mean and the deviation.
        has_open_batch: True if the towers take any number of rows.
        is_normalized: True if the towers return rows of unit length.
        has_external_data: True if the weights are in another file.
    """

    vision: dict
    text: dict
    preprocess: dict = dataclasses.field(default_factory=dict)
    tokenizer: str = ""
    takes_pixels: bool = False
    has_open_batch: bool = True
    is_normalized: bool = True
    has_external_data: bool = False


KINDS = {
    "clip": _Kind(_VIT, _CLIP_TEXT, has_open_batch=False, is_normalized=False),
    "mobileclip": _Kind(
        {
            "timm_model_name": "fastvit_t8",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": None,
            "image_size": 64,
        },
        {**_CLIP_TEXT, "no_causal_mask": True},
        {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear"},
        takes_pixels=True,
    ),
    "siglip": _Kind(
        _SIGLIP_VISION,
        _SIGLIP_TEXT,
        {"mean": _HALF, "std": _HALF, "resize_mode": "squash"},
        tokenizer="t5",
        is_normalized=False,
    ),
    "siglip2": _Kind(
        _SIGLIP_VISION,
        _SIGLIP_TEXT,
        {"mean": _HALF, "std": _HALF, "resize_mode": "squash"},
        tokenizer="gemma",
        takes_pixels=True,
        has_external_data=True,
    ),
    "xlm_roberta": _Kind(
        _VIT,
        {"hf_pooler_type": "mean_pooler"},
        tokenizer="xlm_roberta",
        has_external_data=True,
    ),
    "nllb": _Kind(
        _VIT,
        {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"},
        {"resize_mode": "longest", "fill_color": 128},
        tokenizer="nllb",
        takes_pixels=True,
    ),
    # M-CLIP has the image tower of CLIP and a text tower of its own.
    "m_clip": _Kind(_VIT, _CLIP_TEXT, tokenizer="xlm_roberta", is_normalized=False),
}


def write_model(folder: pathlib.Path, kind: str) -> None:
    """Writes the files of a model to a folder."""
    options = KINDS[kind]
    model = _build(kind, folder)
    for name in ("visual", "textual"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    config = {
        "embed_dim": _EMBED_DIM,
        "vision_cfg": options.vision,
        "text_cfg": {**_text_config(kind), "hf_tokenizer_name": options.tokenizer},
    }
    if kind == "m_clip":
        del config["text_cfg"]["hf_tokenizer_name"]
    (folder / "config.json").write_text(json.dumps(config))
    settings = dataclasses.asdict(_preprocess(kind))
    (folder / "visual" / "preprocess_cfg.json").write_text(json.dumps(settings))
    _tokenizer(options.tokenizer).save_pretrained(folder / "textual")
    side = options.vision["image_size"]
    if options.takes_pixels:
        image = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    else:
        image = torch.zeros(2, 3, side, side)
    _export(_Visual(model, kind), folder / "visual", {"image": image}, options)
    length = options.text.get("context_length", 77)
    ids = torch.ones(2, length, dtype=torch.int32)
    inputs = {"text": ids}
    if kind == "m_clip":
        inputs = {"input_ids": ids, "attention_mask": ids}
    _export(_Textual(model, kind), folder / "textual", inputs, options)


def embed_images(folder: pathlib.Path, kind: str, paths: list) -> np.ndarray:
    """Returns the embeddings of image files by open_clip, rows of unit length."""
    transform = image_transform_v2(_preprocess(kind), is_train=False)
    images = torch.stack([transform(Image.open(path)) for path in paths])
    with torch.no_grad():
        return _build(kind, folder).encode_image(images, normalize=True).numpy()


def embed_texts(folder: pathlib.Path, kind: str, texts: list) -> np.ndarray:
    """Returns the embeddings of texts by open_clip, rows of unit length."""
    model = _build(kind, folder)
    options = KINDS[kind]
    with torch.no_grad():
        if kind == "m_clip":
            # The class of M-CLIP pads to the longest text.
            tokens = transformers.AutoTokenizer.from_pretrained(folder / "textual")(
                texts, padding=True, truncation=True, max_length=77, return_tensors="pt"
            )
            rows = model.m_clip(tokens["input_ids"], tokens["attention_mask"])
            return torch.nn.functional.normalize(rows, dim=-1).numpy()
        if options.tokenizer:
            tokenize = open_clip_tokenizer.HFTokenizer(
                folder / "textual",
                options.text.get("context_length", 77),
                **options.text.get("tokenizer_kwargs", {}),
            )
        else:
            tokenize = open_clip_tokenizer.SimpleTokenizer()
        return model.encode_text(tokenize(texts), normalize=True).numpy()


@functools.cache
def _build(kind: str, folder: pathlib.Path) -> torch.nn.Module:
    torch.manual_seed(0)
    text_config = _text_config(kind)
    hugging_face = {
        "xlm_roberta": transformers.XLMRobertaConfig,
        "nllb": transformers.M2M100Config,
    }
    is_custom = kind not in ("clip", "m_clip")
    if kind in hugging_face:
        path = folder / "hugging_face"
        hugging_face[kind](**_hugging_face_sizes()).save_pretrained(path)
        text_config |= {"hf_model_name": str(path), "hf_model_pretrained": False}
    kind_of_model = open_clip.CustomTextCLIP if is_custom else open_clip.CLIP
    model = kind_of_model(_EMBED_DIM, KINDS[kind].vision, text_config)
    if kind == "m_clip":
        model.m_clip = _MCLIP()
    # The defaults make all embeddings of a small model almost equal.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    return model.eval()


def _hugging_face_sizes() -> dict:
    size = {"vocab_size": 400, "hidden_size": 32, "d_model": 32, "pad_token_id": 1}
    layers = {"num_hidden_layers": 2, "encoder_layers": 2, "decoder_layers": 1}
    heads = {"num_attention_heads": 2, "encoder_attention_heads": 2}
    widths = {"intermediate_size": 64, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    return size | layers | heads | widths | {"decoder_attention_heads": 2}


def _text_config(kind: str) -> dict:
    config = dict(KINDS[kind].text)
    name = KINDS[kind].tokenizer
    if name and "context_length" in config and kind != "m_clip":
        config["vocab_size"] = len(_tokenizer(name))
    return config


def _preprocess(kind: str) -> PreprocessCfg:
    options = KINDS[kind]
    return PreprocessCfg(size=options.vision["image_size"], **options.preprocess)


class _MCLIP(torch.nn.Module):
    """Text tower of M-CLIP: the mean of the tokens of XLM-RoBERTa, and a projection."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.XLMRobertaConfig(**_hugging_face_sizes())
        self.transformer = transformers.XLMRobertaModel(config)
        self.projection = torch.nn.Linear(32, _EMBED_DIM)

    def forward(self, ids, mask):
        states = self.transformer(input_ids=ids, attention_mask=mask)[0]
        weights = mask.unsqueeze(2).to(states.dtype)
        return self.projection((states * weights).sum(1) / weights.sum(1))


class _Visual(torch.nn.Module):
    def __init__(self, model, kind: str) -> None:
        super().__init__()
        self.model = model
        self.options = KINDS[kind]
        settings = _preprocess(kind)
        self.mean = torch.tensor(settings.mean).reshape(3, 1, 1)
        self.std = torch.tensor(settings.std).reshape(3, 1, 1)

    def forward(self, image):
        if self.options.takes_pixels:
            image = image.permute(0, 3, 1, 2).float() / 255
            image = (image - self.mean) / self.std
        return self.model.encode_image(image, normalize=self.options.is_normalized)


class _Textual(torch.nn.Module):
    def __init__(self, model, kind: str) -> None:
        super().__init__()
        self.model = model
        self.kind = kind

    def forward(self, text, mask=None):
        if self.kind == "m_clip":
            return self.model.m_clip(text, mask)
        is_normalized = KINDS[self.kind].is_normalized
        return self.model.encode_text(text, normalize=is_normalized)


def _export(module, folder: pathlib.Path, inputs: dict, options: _Kind) -> None:
    path = folder / "model.onnx"
    axes = {name: {0: "batch"} for name in (*inputs, "embedding")}
    if not options.has_open_batch:
        inputs = {name: value[:1] for name, value in inputs.items()}
    # ONNX has no operation for the fused attention of torch.
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=["embedding"],
            dynamic_axes=axes if options.has_open_batch else None,
            opset_version=17,
            dynamo=False,
        )
    if options.has_external_data:
        import onnx

        onnx.save(
            onnx.load(path), path, save_as_external_data=True, location="weights.data"
        )


def _tokenizer(name: str):
    """Returns a tokenizer of transformers with a small vocabulary."""
    if not name:
        clip = open_clip_tokenizer.SimpleTokenizer()
        names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
        vocabulary = {names.get(token, token): id for token, id in clip.encoder.items()}
        return transformers.CLIPTokenizer(vocabulary, list(clip.bpe_ranks))
    if name == "t5":
        special = ["<pad>", "</s>", "<unk>"]
        # open_clip's SigLIP models pad with the token that ends a text.
        return transformers.T5Tokenizer(
            _unigrams(special), extra_ids=0, pad_token="</s>"
        )
    if name == "xlm_roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        return transformers.XLMRobertaTokenizer(_unigrams(special))
    if name == "gemma":
        special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
        vocabulary, merges = _byte_pairs(special)
        made = transformers.GemmaTokenizer(
            vocabulary, merges, padding_side="right", add_eos_token=True
        )
        return _with_end(made, "<eos>")
    vocabulary, merges = _byte_pairs(["<s>", "<pad>", "</s>", "<unk>"])
    return transformers.NllbTokenizer(
        vocabulary, merges, extra_special_tokens=["eng_Latn", "ell_Grek"]
    )


def _with_end(tokenizer, end: str):
    """Makes a tokenizer of transformers add a token at the end of each text."""
    id = tokenizer.convert_tokens_to_ids(end)
    tokenizer.backend_tokenizer.post_processor = (
        tokenizers.processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, id)]
        )
    )
    return tokenizer


def _unigrams(special: list[str]) -> list[tuple[str, float]]:
    """Returns pieces of the sentences in five scripts and their scores."""
    model = tokenizers.Tokenizer(tokenizers.models.Unigram())
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special, unk_token="<unk>"
    )
    model.train_from_iterator([*_SENTENCES] * 3, trainer)
    pieces = json.loads(model.to_str())["model"]["vocab"]
    return [(piece, score) for piece, score in pieces]


def _byte_pairs(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Returns the vocabulary and the merges of the sentences in five scripts."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    model.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=special)
    model.train_from_iterator([*_SENTENCES] * 3, trainer)
    state = json.loads(model.to_str())["model"]
    return state["vocab"], [tuple(pair) for pair in state["merges"]]
