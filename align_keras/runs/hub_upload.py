"""Upload of a model to the Hugging Face Hub."""

import dataclasses
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from align_keras.embedders.locations import LITERT_FILES, ModelLocation, locate_model
from align_keras.export.card_metadata import (
    card_with_metadata,
    license_of,
    without_folders,
)
from align_keras.presets.hub import (
    EXPORT_FOLDERS,
    LIGHT_PATTERNS,
    WEIGHT_PATTERNS,
    HubName,
    download,
    hub_errors,
    parse_hub_name,
)
from align_keras.runs.card_facts import about_run, read_evaluation
from align_keras.runs.model_export import (
    EXPORT_FORMATS,
    check_format_packages,
    export_model,
)
from align_keras.utils.addresses import HUB_PREFIX, is_hub_name
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

if TYPE_CHECKING:
    from align_keras.models import ALIGN

CARD_FILE = "README.md"
# Files of the repository that belong to an earlier version of the model. They are
# deleted unless the new version has them. Other files, such as a license, stay.
_REPLACED_PATTERNS = [
    *(pattern for pattern in LIGHT_PATTERNS if pattern != "*.txt"),
    *WEIGHT_PATTERNS,
    "vocab*.txt",
    *(f"{name}/*" for name in EXPORT_FOLDERS),
]
_PRESET_FILES = "The files at the top of the repository are a preset for Keras."
_FILES_OF_FORMAT = {
    "litert": "`image.tflite` and `text.tflite` run without TensorFlow.",
    "saved_model": "`saved_model/` has SavedModels for TensorFlow Serving.",
    "web": "`web/` has a static page that searches images.",
    "onnx": "`onnx/` has ONNX files for other runtimes.",
}


def push_to_hub(
    model: "str | os.PathLike | ALIGN",
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    exports: Sequence[str] = (),
    evaluation: Sequence[str | os.PathLike | Mapping[str, Any]] = (),
    license: str | None = None,
    language: str | Sequence[str] = (),
    datasets: str | Sequence[str] = (),
    token: str | None = None,
) -> str:
    """Uploads a model to a repository on the Hugging Face Hub.

    The command `align-keras push` calls this function, and so does
    `ALIGN.push_to_hub`. It uploads a preset, a model card (`README.md`) and the
    requested exports. The repository is created if it does not exist. Files of an
    earlier version of the model are replaced, and other files stay.

    Args:
        model: `ALIGN`, or a name for `align_keras.load_model`. The card of a run
            contains its metrics and the notes on its data. A folder of LiteRT towers or
            of an export is uploaded with all its files.
        repository: `"user/model"`.
        private: True creates a private repository. A public repository that
            exists is refused.
        revision: branch, which is created if it does not exist, or None for the main
            branch.
        commit_message: message of the commit.
        exports: formats of `align_keras.export_model` to add. LiteRT towers are written
            next to the preset, so that `load_model` opens the model without TensorFlow.
            The other formats are written to folders with their names.
        evaluation: results of `align_keras.evaluate` for this model, or files with the
            output of `align-keras evaluate --json`.
        license: identifier of the license, such as `"apache-2.0"`. The default is the
            license of the card in the folder of the model, that of the card on the Hub,
            or `"unknown"`.
        language: codes of the languages of the captions, such as `"en"`, which is the
            default.
        datasets: names of the training sets on the Hub. The default is the corpora of
            the run.
        token: token of the Hub with write permission, or None for the token of
            `HF_TOKEN` or of `hf auth login`.

    Returns:
        str, address of the commit.

    Raises:
        InputError: if an argument is wrong, the model can't be opened or exported, or
            the Hub refuses the upload.

    Example:

    ```python
    align_keras.push_to_hub("align_small_en", "user/drawings", license="apache-2.0")
    model = align_keras.load_model("hf://user/drawings")
    ```
    """
    import huggingface_hub

    target = _checked_target(repository, revision, exports)
    location = None
    if isinstance(model, str | os.PathLike):
        location = locate_model(model)
    reports = [read_evaluation(report, model) for report in evaluation]
    with hub_errors(target.repository, target, token, "pushed"):
        # A missing or wrong token is reported before the model is opened.
        huggingface_hub.HfApi(token=token).whoami()
    source = _open_source(model, location)
    with tempfile.TemporaryDirectory(prefix="align-keras-push-") as name:
        folder = pathlib.Path(name, "model")
        folder.mkdir()
        source.write(folder)
        for export_format in exports:
            _write_export(source.model, folder, export_format, license)
        card = _card(
            source,
            folder,
            target,
            exports=exports,
            reports=reports,
            previous=_metadata_on_hub(target, token),
            license=license,
            language=[language] if isinstance(language, str) else list(language),
            datasets=[datasets] if isinstance(datasets, str) else list(datasets),
        )
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        url = _upload(folder, target, private, commit_message, token)
    if license_of(card) == "unknown":
        say(
            "The license in the model card is unknown. Push the model again with its "
            "license, such as apache-2.0, so that others may use it."
        )
    return url


def _checked_target(
    repository: str, revision: str | None, exports: Sequence[str]
) -> HubName:
    """Checks the arguments before TensorFlow is imported. Returns the repository."""
    target = parse_hub_name(repository, revision)
    if target.folder:
        raise InputError(
            "`repository` must be user/model. Received: "
            f"repository={repository!r}. Leave the folder out."
        )
    for export_format in exports:
        check_choice("exports", export_format, EXPORT_FORMATS)
        check_format_packages(export_format, {})
    return target


@dataclasses.dataclass(frozen=True)
class _KerasSource:
    """Keras model to upload as a preset.

    Attributes:
        model: `ALIGN`.
        folder: folder from which the model was opened, or None.
    """

    model: "ALIGN"
    folder: pathlib.Path | None

    def write(self, folder: pathlib.Path) -> None:
        """Writes the preset to an empty folder."""
        self.model.save_to_preset(folder)

    def describe(self) -> dict[str, Any]:
        """Returns the arguments of `model_card` about the origin of the model."""
        return {} if self.folder is None else about_run(self.folder)


@dataclasses.dataclass(frozen=True)
class _FolderSource:
    """Folder of LiteRT towers or of an export, which is uploaded with all its files.

    Attributes:
        model: name for `align_keras.load_model`.
        folder: folder of the files.
    """

    model: str
    folder: pathlib.Path

    def write(self, folder: pathlib.Path) -> None:
        """Copies the files to an empty folder."""
        ignored = shutil.ignore_patterns(".*", "__pycache__")
        shutil.copytree(self.folder, folder, ignore=ignored, dirs_exist_ok=True)

    def describe(self) -> dict[str, Any]:
        """Returns no arguments of `model_card`, since the folder has a card."""
        return {}


def _open_source(
    model: "str | os.PathLike | ALIGN",
    location: ModelLocation | None,
) -> _KerasSource | _FolderSource:
    """Opens a model. `location` is None for an `ALIGN`."""
    if location is None:
        return _KerasSource(cast("ALIGN", model), None)
    if "keras" in location.runtimes and "litert" not in location.runtimes:
        from align_keras.models import ALIGN

        return _KerasSource(ALIGN.from_preset(location.preset), location.folder)
    folder = location.folder
    if is_hub_name(location.name):
        folder = download(location.name)
    return _FolderSource(location.name, folder)


def _write_export(
    model: "ALIGN | str", folder: pathlib.Path, export_format: str, license: str | None
) -> None:
    """Writes an export to the folder of the repository."""
    say(f"writing the export {export_format}")
    target = folder / export_format
    if export_format == "saved_model":
        export_model(model, target)
    else:
        export_model(model, target, export_format, license=license)
    # The card of the repository describes its exports too.
    (target / CARD_FILE).unlink()
    if export_format == "litert":
        for file in LITERT_FILES.values():
            (target / file).replace(folder / file)
        shutil.rmtree(target)


def _card(
    source: _KerasSource | _FolderSource,
    folder: pathlib.Path,
    target: HubName,
    *,
    exports: Sequence[str],
    reports: Sequence[Mapping[str, Any]],
    previous: Any,
    **metadata: Any,
) -> str:
    """Returns the model card of the repository.

    Args:
        source: model to upload.
        folder: folder of the repository, whose card is kept if it has one.
        target: `HubName` of the repository.
        exports: formats of the exports in the folder.
        reports: evaluations of the model.
        previous: `ModelCardData` of the repository on the Hub, or None.
        **metadata: `license`, `language` and `datasets` of the model.
    """
    about = source.describe()
    data = about.pop("data", None) or {}
    reports = [
        {**report, "data": without_folders(report["data"])} for report in reports
    ]
    path = folder / CARD_FILE
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        text = _card_text(
            source,
            target,
            exports,
            license=metadata["license"],
            data=data,
            measured=reports,
            **about,
        )
    if about.get("evaluation"):
        reports.insert(0, _report_of_run(source.folder, about["evaluation"]))
    metadata["datasets"] = metadata["datasets"] or _names_on_hub(data)
    try:
        card = card_with_metadata(
            text, target.repository, reports=reports, previous=previous, **metadata
        )
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"The metadata at the top of {CARD_FILE} must be valid. Received: "
            f"{reason}. Correct the file in the folder of the model."
        ) from None
    return card


def _card_text(
    origin: _KerasSource | _FolderSource,
    target: HubName,
    exports: Sequence[str],
    **about: Any,
) -> str:
    """Returns a new model card without metadata."""
    from align_keras.embedders import load_model
    from align_keras.export.model_card import model_card

    described = [_FILES_OF_FORMAT[export_format] for export_format in exports]
    model: Any = origin.model
    if isinstance(origin, _KerasSource):
        described.insert(0, _PRESET_FILES)
    else:
        model = load_model(origin.model)
    branch = f"@{target.revision}" if target.revision else ""
    return model_card(
        model,
        described=" ".join(described),
        repository=f"{HUB_PREFIX}{target.repository}{branch}",
        **about,
    )


def _report_of_run(
    folder: pathlib.Path | None, evaluation: Mapping[str, float]
) -> dict[str, Any]:
    """Returns the metrics of a run in the form of `align_keras.evaluate`."""
    from align_keras.config import load_config
    from align_keras.runs.run_folder import PARAMS_FILE

    report = {"protocol": "retrieval", "data": "validation", "metrics": evaluation}
    params = pathlib.Path(folder or "", PARAMS_FILE)
    if params.exists():
        task = load_config(config_files=[params]).task
        validation = task.validation_data
        # Validation pairs without a corpus are a split of the training corpus.
        data = validation if validation.corpus or validation.pairs else task.train_data
        report["data"] = without_folders(str(data.pairs or data.corpus))
        report["split"] = validation.tfds_split
    return report


def _names_on_hub(data: Mapping[str, Any]) -> list[str]:
    """Returns the names of corpora that may be data sets on the Hub."""
    names = [name.removeprefix("hf://datasets/") for name in data]
    return [name for name in names if re.fullmatch(r"(?:[\w.-]+/)?[\w-]+", name)]


def _metadata_on_hub(target: HubName, token: str | None) -> Any:
    """Returns the metadata of the card that the upload replaces, or None."""
    import huggingface_hub
    from huggingface_hub import utils as hub

    with hub_errors(target.repository, target, token, "pushed"):
        try:
            info = huggingface_hub.HfApi(token=token).model_info(
                target.repository, revision=target.revision
            )
        except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError):
            return None
    return info.card_data


def _check_metadata(card: str) -> None:
    """Raises if the Hub refuses the metadata of a model card."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    # `ModelCard.validate` of earlier versions ignores HF_ENDPOINT.
    response = get_session().post(
        f"{constants.ENDPOINT}/api/validate-yaml",
        json={"repoType": "model", "content": card},
    )
    if response.status_code != 400:
        return
    reasons = " ".join(error["message"] for error in response.json()["errors"])
    raise InputError(
        "The Hub must accept the metadata of the model card. Received: "
        f"{' '.join(reasons.split())[:200]}. Correct the option, or {CARD_FILE} in the "
        "folder of the model."
    )


def _upload(
    folder: pathlib.Path,
    target: HubName,
    private: bool,
    commit_message: str | None,
    token: str | None,
) -> str:
    """Uploads a folder. Returns the address of the commit."""
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token, library_name="align-keras")
    with hub_errors(target.repository, target, token, "pushed"):
        # The card is checked before a repository is created.
        _check_metadata((folder / CARD_FILE).read_text(encoding="utf-8"))
        api.create_repo(target.repository, private=private or None, exist_ok=True)
        if private and not api.model_info(target.repository).private:
            raise InputError(
                f"`private` must be left out for {target.repository}, which is public. "
                "Received: private=True. Choose another name, or make the repository "
                "private in its settings on the Hub."
            )
        if target.revision is not None:
            api.create_branch(target.repository, branch=target.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=target.repository,
            folder_path=folder,
            revision=target.revision,
            commit_message=commit_message or "Upload a model with align-keras",
            delete_patterns=_REPLACED_PATTERNS,
        )
    return str(commit.commit_url)
