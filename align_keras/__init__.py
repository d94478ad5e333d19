"""ALIGN in Keras: image and text embeddings learned from noisy alt-text.

Each public name is imported when it is first used, so that `import align_keras` does
not load TensorFlow.

References:
    Jia et al. 2021, "Scaling Up Visual and Vision-Language Representation
    Learning With Noisy Text Supervision", arXiv:2102.05918.

Example:
>>> import align_keras
>>> align_keras.models.preset_names()[:2]
['align_nano', 'align_micro']
"""

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

from align_keras.utils.errors import needs_tensorflow
from align_keras.utils.keras_objects import register_with_keras
from align_keras.utils.lazy_names import import_name
from align_keras.utils.optional_packages import raise_import_error_if_broken

__version__ = "0.1.0"
_PUBLIC = {
    "ALIGN": "align_keras.models",
    "ALIGNBackbone": "align_keras.models",
    "ALIGNImageConverter": "align_keras.models",
    "ALIGNPreprocessor": "align_keras.models",
    "ALIGNTokenizer": "align_keras.models",
    "ImageEncoder": "align_keras.models",
    "TextEncoder": "align_keras.models",
    "Lamb": "align_keras.optimizers",
    "ContrastiveLoss": "align_keras.losses",
    "build_corpus": "align_keras.runs.corpus_build",
    "contrastive_loss": "align_keras.losses",
    "export_model": "align_keras.runs.model_export",
    "export_saved_model": "align_keras.export",
    "finetune": "align_keras.runs.finetuning",
    "learn_vocabulary": "align_keras.text",
    "load_model": "align_keras.embedders",
    "mteb_model": "align_keras.embedders",
    "evaluate": "align_keras.protocols.run_protocol",
    "evaluate_experiment": "align_keras.runs.experiment",
    "index_experiment": "align_keras.runs.experiment",
    "score_corpus": "align_keras.runs.corpus_scores",
    "push_to_hub": "align_keras.runs.hub_upload",
    "recall_at_k": "align_keras.evaluation",
    "teacher_embeddings": "align_keras.runs.distillation",
    "train_experiment": "align_keras.runs.experiment",
    "open_run": "align_keras.runs.finished_run",
    "InputError": "align_keras.utils.errors",
}
__all__ = sorted(_PUBLIC)
# Classes that `keras.saving.load_model` finds without `custom_objects`.
_SAVED_BY_KERAS = {
    "ALIGN": "align_keras.models.align",
    "ALIGNBackbone": "align_keras.models.align_backbone",
    "ALIGNImageConverter": "align_keras.preprocessing.image_converter",
    "ALIGNPreprocessor": "align_keras.preprocessing.preprocessor",
    "ALIGNTokenizer": "align_keras.preprocessing.tokenizer",
    "ImageClassifier": "align_keras.models.image_classifier",
    "ImageEncoder": "align_keras.models.image_encoder",
    "TextEncoder": "align_keras.models.text_encoder",
    "ContrastiveLoss": "align_keras.losses.contrastive_loss",
    "FunctionLoss": "align_keras.losses.pair_loss",
    "DistillationLoss": "align_keras.losses.distillation_loss",
    "MatryoshkaLoss": "align_keras.losses.matryoshka_loss",
    "SigmoidLoss": "align_keras.losses.sigmoid_loss",
    "Activation": "align_keras.layers.activation",
    "FusedBatchNormalization": "align_keras.layers.batch_normalization",
    "L2Normalization": "align_keras.layers.l2_normalization",
    "MBConvBlock": "align_keras.layers.mbconv_block",
    "Temperature": "align_keras.layers.temperature",
    "AdamW": "align_keras.optimizers.adamw",
    "Lamb": "align_keras.optimizers.lamb",
    "LinearWarmup": "align_keras.optimizers.warmup",
    "Muon": "align_keras.optimizers.adamw",
    "SGD": "align_keras.optimizers.sgd",
}
# TensorFlow disables the oneDNN kernels on x86 processors without VNNI, although they
# halve the time of EfficientNet there. TensorFlow reads the variable when it is
# imported.
_MACHINE = (
    os.uname().machine
    if os.name == "posix"
    else os.environ.get("PROCESSOR_ARCHITECTURE", "")
)
if _MACHINE.lower() in ("x86_64", "amd64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

register_with_keras(_SAVED_BY_KERAS)
raise_import_error_if_broken("tensorflow_text")


if TYPE_CHECKING:
    from align_keras import cli as cli
    from align_keras import config as config
    from align_keras import corpus as corpus
    from align_keras import data as data
    from align_keras import datasets as datasets
    from align_keras import embedders as embedders
    from align_keras import evaluation as evaluation
    from align_keras import export as export
    from align_keras import images as images
    from align_keras import layers as layers
    from align_keras import losses as losses
    from align_keras import models as models
    from align_keras import optimizers as optimizers
    from align_keras import planning as planning
    from align_keras import preprocessing as preprocessing
    from align_keras import presets as presets
    from align_keras import protocols as protocols
    from align_keras import reports as reports
    from align_keras import runs as runs
    from align_keras import search as search
    from align_keras import text as text
    from align_keras import training as training
    from align_keras import utils as utils
    from align_keras.embedders import load_model as load_model
    from align_keras.embedders import mteb_model as mteb_model
    from align_keras.evaluation import recall_at_k as recall_at_k
    from align_keras.export import export_saved_model as export_saved_model
    from align_keras.losses import ContrastiveLoss as ContrastiveLoss
    from align_keras.losses import contrastive_loss as contrastive_loss
    from align_keras.models import ALIGN as ALIGN
    from align_keras.models import ALIGNBackbone as ALIGNBackbone
    from align_keras.models import ALIGNImageConverter as ALIGNImageConverter
    from align_keras.models import ALIGNPreprocessor as ALIGNPreprocessor
    from align_keras.models import ALIGNTokenizer as ALIGNTokenizer
    from align_keras.models import ImageEncoder as ImageEncoder
    from align_keras.models import TextEncoder as TextEncoder
    from align_keras.optimizers import Lamb as Lamb
    from align_keras.protocols.run_protocol import evaluate as evaluate
    from align_keras.runs.corpus_build import build_corpus as build_corpus
    from align_keras.runs.corpus_scores import score_corpus as score_corpus
    from align_keras.runs.distillation import teacher_embeddings as teacher_embeddings
    from align_keras.runs.experiment import evaluate_experiment as evaluate_experiment
    from align_keras.runs.experiment import index_experiment as index_experiment
    from align_keras.runs.experiment import train_experiment as train_experiment
    from align_keras.runs.finetuning import finetune as finetune
    from align_keras.runs.finished_run import open_run as open_run
    from align_keras.runs.hub_upload import push_to_hub as push_to_hub
    from align_keras.runs.model_export import export_model as export_model
    from align_keras.text import learn_vocabulary as learn_vocabulary
    from align_keras.utils.errors import InputError as InputError
else:

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC and importlib.util.find_spec(f"{__name__}.{name}"):
            with needs_tensorflow(f"`{__name__}.{name}`"):
                return importlib.import_module(f"{__name__}.{name}")
        return import_name(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    import pkgutil

    packages = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted([*globals(), *_PUBLIC, *packages])
