"""Models on the Hugging Face Hub and on Kaggle: names, downloads and errors.

This module does not import TensorFlow, because LiteRT models on the Hub run without it.
"""

import contextlib
import dataclasses
import pathlib
import re
import urllib.parse
from collections.abc import Iterator

from align_keras.presets.open_clip_layout import (
    OPEN_CLIP_IGNORED,
    OPEN_CLIP_PATTERNS,
)
from align_keras.utils.addresses import HUB_PREFIX, KAGGLE_PREFIX
from align_keras.utils.errors import InputError, MissingExtraError

# Folders of a repository with the exports that `push_to_hub` writes next to the preset.
# LiteRT towers are next to the files of the preset, where `load_model` finds them.
EXPORT_FOLDERS = ("onnx", "saved_model", "web")
# Folders of a training run that are not part of its model.
_RUN_FOLDERS = ("best", "checkpoints", "export", "index", "tensorboard")
# Patterns of the files that `load_model` opens without Keras, and of the configuration.
# A star also matches slashes.
LIGHT_PATTERNS = ("*.json", "*.txt", "*.tflite", "*.onnx", "assets/*")
# Patterns of the files with Keras weights: of `save_to_preset`, and of the safetensors
# of transformers and of align_small_en.
WEIGHT_PATTERNS = ("*.weights.h5", "*.safetensors")
IGNORED_PATTERNS = tuple(f"{name}/*" for name in (*EXPORT_FOLDERS, *_RUN_FOLDERS))
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN"
# Revisions of pull requests and conversions contain slashes. A slash in the name of a
# branch is written as %2F.
_NAME = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr/\d+|convert/[\w.-]+)|[^@/]+))?"
    r"(?P<folder>(?:/[^/]+)*)/?"
)


@dataclasses.dataclass(frozen=True)
class HubName:
    """Parts of the name `hf://user/model@revision/folder`.

    Attributes:
        repository: `user/model`.
        revision: branch, tag or commit, or None for the main branch.
        folder: folder of the repository with the files of the model, or "".
    """

    repository: str
    revision: str | None
    folder: str


def parse_hub_name(name: str, revision: str | None = None) -> HubName:
    """Returns the parts of a name on the Hugging Face Hub.

    Args:
        name: `hf://user/model`, `hf://user/model@revision`, or one of them with the
            path of a folder at its end. The prefix `hf://` may be omitted.
        revision: branch, tag or commit, which the name may also contain.

    Raises:
        InputError: if the name has another form, or contains another revision.

    Example:

    >>> parse_hub_name("hf://user/model@v1/onnx")
    HubName(repository='user/model', revision='v1', folder='onnx')
    """
    match = _NAME.fullmatch(name.removeprefix(HUB_PREFIX))
    parts = match["folder"].strip("/").split("/") if match else []
    if match is None or "." in parts or ".." in parts:
        raise InputError(
            "A model on the Hugging Face Hub must have a name of the form "
            f"hf://user/model or hf://user/model@revision. Received: {name!r}. Check "
            "the name."
        )
    named_revision = match["revision"]
    if named_revision is not None:
        named_revision = urllib.parse.unquote(named_revision)
    return HubName(match["repository"], revision or named_revision, "/".join(parts))


def download(
    name: str,
    revision: str | None = None,
    token: str | None = None,
    weights: bool = True,
    local_files_only: bool = False,
) -> pathlib.Path:
    """Downloads a model on its first use, and returns its folder in the cache.

    If the connection breaks, the download continues. After a failed download, the next
    call downloads the missing files only.

    Args:
        name: `hf://user/model`, as in `parse_hub_name`, or
            `kaggle://user/model/keras/variation`.
        revision: branch, tag or commit, which `name` may also contain.
        token: token of the Hugging Face Hub, or None for the token of `HF_TOKEN` or of
            `hf auth login`.
        weights: False leaves out the files with Keras weights. Configurations,
            vocabularies and the towers of LiteRT and ONNX are downloaded.
        local_files_only: True looks for a model of the Hugging Face Hub in the cache
            only.

    Returns:
        `pathlib.Path`.

    Raises:
        InputError: if the model does not exist, if you may not read it, or if it is not
            in the cache and the server cannot be reached.
    """
    if name.startswith(KAGGLE_PREFIX):
        return _download_from_kaggle(name, revision)
    import huggingface_hub

    parts = parse_hub_name(name, revision)
    patterns = [*LIGHT_PATTERNS, *OPEN_CLIP_PATTERNS]
    if weights:
        patterns += WEIGHT_PATTERNS
    ignored: list[str] | None = [*IGNORED_PATTERNS, *OPEN_CLIP_IGNORED]
    if parts.folder:
        patterns = [f"{parts.folder}/*"]
        ignored = None
    with hub_errors(name, parts, token):
        snapshot = huggingface_hub.snapshot_download(
            parts.repository,
            revision=parts.revision,
            allow_patterns=patterns,
            ignore_patterns=ignored,
            token=token,
            library_name="align-keras",
            local_files_only=local_files_only,
        )
    folder = pathlib.Path(snapshot, parts.folder)
    if not folder.is_dir():
        missing = parts.folder or "config.json and LiteRT towers"
        raise InputError(
            f"{name} must be a model. Received: a repository without {missing}. Check "
            f"the files on {repository_url(parts.repository)}."
        )
    return folder


def repository_url(repository: str) -> str:
    """Returns the address of the page of a repository."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


@contextlib.contextmanager
def hub_errors(
    name: str, parts: HubName, token: str | None = None, verb: str = "downloaded"
) -> Iterator[None]:
    """Converts errors of the Hugging Face Hub in the block to an `InputError`.

    Args:
        name: name of the model, for the message.
        parts: `HubName` of the model.
        token: token of the request, or None for the token of the user. The message
            contains `***` in its place.
        verb: participle of the action in the block, for the message.
    """
    try:
        yield
    except InputError:
        raise
    # huggingface_hub, its check of the name and its HTTP library raise many classes.
    except Exception as error:
        message = _describe(error, name, parts, verb)
        raise InputError(without_tokens(message, token)) from None


def without_tokens(text: str, token: str | None = None) -> str:
    """Replaces a token, and the user's token of the Hub, in a text by `***`."""
    import huggingface_hub

    for secret in (token, huggingface_hub.get_token()):
        # The message of an error may contain the token with escaped characters.
        for form in {secret, repr(secret)[1:-1]} if secret else ():
            text = text.replace(form, "***")
    return text


def _describe(error: Exception, name: str, parts: HubName, verb: str) -> str:
    """Returns the message for an error of the Hugging Face Hub, in one line."""
    from huggingface_hub import constants
    from huggingface_hub import utils as hub

    url = repository_url(parts.repository)
    tokens_url = repository_url("settings/tokens")
    # `GatedRepoError` is a `RepositoryNotFoundError`.
    if isinstance(error, hub.GatedRepoError):
        return (
            f"{name} can't be {verb}, because you must accept its terms first. Accept "
            f"the terms on {url}. {_LOG_IN}."
        )
    if isinstance(error, hub.RepositoryNotFoundError):
        return (
            f"{name} can't be {verb}, because the Hub has no such repository that you "
            f"may read. Check the name. {_LOG_IN} if the repository is private."
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return (
            f"`revision` must be a branch, tag or commit of {name}. Received: "
            f"revision={parts.revision!r}. Choose one on {url}/tree/main."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return (
            f"{name} can't be {verb}, because the Hub doesn't accept your token. "
            f"{_LOG_IN} to a valid token of {tokens_url}."
        )
    if status == 403:
        return (
            f"{name} can't be {verb}, because your token doesn't permit it. {_LOG_IN} "
            f"to a token of {tokens_url} that does."
        )
    remedy = "Check the name and the connection"
    if constants.HF_HUB_OFFLINE:
        remedy = "Unset HF_HUB_OFFLINE to connect to the Hub"
    if isinstance(error, hub.LocalEntryNotFoundError):
        return (
            f"{name} can't be {verb} ({_reason(error)}), and its files are not in the "
            f"cache. {remedy}, or pass the path of a folder with its files."
        )
    return f"{name} can't be {verb} ({_reason(error)}). {remedy}."


def _reason(error: BaseException) -> str:
    """Returns the class and the message of the first error of a chain in one line."""
    # The first error contains the reason, such as an unknown host.
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _download_from_kaggle(name: str, revision: str | None) -> pathlib.Path:
    """Downloads a model of Kaggle with kagglehub, which KerasHub installs."""
    if revision is not None:
        raise InputError(
            "`revision` must be left out for a model on Kaggle. Received: "
            f"revision={revision!r}. Append the version to the name, such as "
            f"{name}/1."
        )
    try:
        import kagglehub
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"The model {name} needs kagglehub", "tensorflow"
        ) from None
    try:
        return pathlib.Path(kagglehub.model_download(name.removeprefix(KAGGLE_PREFIX)))
    # kagglehub, kagglesdk and their HTTP library raise many classes.
    except Exception as error:
        raise InputError(
            f"{name} can't be downloaded ({_reason(error)}). The name must have the "
            "form kaggle://user/model/keras/variation. Check the name, your login at "
            "Kaggle and the connection."
        ) from None
