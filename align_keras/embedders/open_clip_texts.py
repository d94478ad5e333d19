"""Texts of open_clip models: cleaning and tokens."""

import html
import pathlib
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class OpenCLIPTokenizer:
    """Tokenizer of an open_clip model.

    Args:
        path: path of `tokenizer.json`, next to `tokenizer_config.json`.
        text_config: `text_cfg` of the configuration of the model.
        length: number of tokens of each text.
        has_mask: True for the text towers of M-CLIP, which take a padding mask. Their
            texts are not cleaned.

    Raises:
        InputError: if a file is damaged, or the tokenizer is not supported.
    """

    def __init__(
        self,
        path: pathlib.Path,
        text_config: dict[str, Any],
        length: int,
        has_mask: bool,
    ) -> None:
        options = text_config.get("tokenizer_kwargs") or {}
        is_of_clip = not text_config.get("hf_tokenizer_name")
        mode = text_config.get("tokenizer_mode")
        if mode:
            raise InputError(
                "`model` must have a tokenizer without `tokenizer_mode`. Received: "
                f"tokenizer_mode={mode!r} in the configuration of "
                f"{path.parent.parent}. Use another model."
            )
        self._cleaning = options.get("clean", "lower" if is_of_clip else "whitespace")
        if has_mask:
            self._cleaning = ""
        self._tokenizer = _read_tokenizer(path)
        settings = read_json(path.with_name("tokenizer_config.json"))
        if is_of_clip and not has_mask:
            # open_clip pads the tokens of CLIP with zeros.
            pad_id = 0
        else:
            pad_id = self._special_token(path, settings, "pad_token")
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding(
            length=length,
            pad_id=pad_id,
            direction=settings.get("padding_side", "right"),
        )
        self._separator = None
        if options.get("strip_sep_token"):
            self._separator = self._special_token(path, settings, "sep_token")

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns token ids and their padding mask, int32 (n, length)."""
        cleaned = [clean_text(text, self._cleaning) for text in texts]
        encodings = self._tokenizer.encode_batch(cleaned)
        ids = np.array([encoding.ids for encoding in encodings], np.int32)
        mask = np.array([encoding.attention_mask for encoding in encodings], np.int32)
        if self._separator is not None:
            ids[ids == self._separator] = 0
        return ids, mask

    def _special_token(
        self, path: pathlib.Path, settings: dict[str, Any], name: str
    ) -> int:
        """Returns the id of a special token of `tokenizer_config.json`."""
        token = settings.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        id = None if token is None else self._tokenizer.token_to_id(str(token))
        if id is None:
            raise InputError(
                f"{path.with_name('tokenizer_config.json')} must have a {name} that is "
                f"a token of {path.name}. Received: {token!r}. Download both files "
                "again."
            )
        return id


def clean_text(text: str, cleaning: str) -> str:
    """Cleans a text as a tokenizer of open_clip does.

    Args:
        text: the text.
        cleaning: `"whitespace"`, `"lower"`, which also makes letters small,
            `"canonicalize"`, which also removes punctuation, or `""` for no cleaning.
    """
    # Characters without UTF-8 have no tokens.
    text = text.encode("utf-8", "replace").decode()
    if not cleaning:
        return text
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if cleaning == "canonicalize":
        text = text.replace("_", " ").translate(_WITHOUT_PUNCTUATION)
    text = " ".join(text.split())
    return text if cleaning == "whitespace" else text.lower()


def _read_tokenizer(path: pathlib.Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises this class for damaged files.
        raise InputError(
            f"{path} must be a tokenizer. Received: a file with the error "
            f"{' '.join(str(error).split())[:160]}. Download it again."
        ) from None
