"""What all evaluation protocols have in common."""

import types

import numpy as np

from align_keras.datasets.benchmarks import CaptionedImages, LabeledImages, simlex
from align_keras.datasets.benchmarks import multi30k as multi30k_files
from align_keras.protocols import caption_protocols, fine_tuning_protocols
from align_keras.protocols.run_protocol import PROTOCOLS
from tests.helpers.protocol_case import (
    CollapsedModel,
    ColorModel,
    ForgetfulModel,
    ProtocolCase,
)
from tests.helpers.small_benchmarks import (
    COLORS,
    captions_of,
    coco_name,
    cxc_rows,
    write_coco,
    write_cxc,
    write_image,
    write_multi30k,
    write_simlex,
)

RECALLS = {f"{name}/recall_at_1": 1.0 for name in ("i2t", "t2i")}
NO_RECALLS = dict.fromkeys(RECALLS, 0.0)
KINDS = ("even", "odd")


def write_metadata(folder, ids):
    """Writes a table with the column `kind`."""
    rows = [f"{name},{KINDS[row % 2]}" for row, name in enumerate(ids)]
    path = folder / "metadata.csv"
    path.write_text("\n".join(["id,kind", *rows]))
    return str(path)


class TestRetrieval(ProtocolCase):
    protocol = "retrieval"
    perfect = RECALLS
    collapsed = NO_RECALLS
    column = "kind"
    groups = KINDS

    def write(self, folder):
        lines = ["image,caption,kind"]
        for row in range(len(COLORS)):
            write_image(folder / f"{row}.png", row)
            for caption in captions_of(row, 2):
                lines.append(f"{row}.png,{caption},{KINDS[row % 2]}")
        (folder / "pairs.csv").write_text("\n".join(lines))
        return {"data": str(folder / "pairs.csv")}


class CxcCase(ProtocolCase):
    column = "kind"
    groups = KINDS
    wrong_data = "coco"

    def write(self, folder):
        write_coco(folder / "coco")
        write_cxc(folder / "cxc", cxc_rows())
        metadata = write_metadata(folder, map(coco_name, range(6)))
        return {"data_root": str(folder), "metadata": metadata}


class TestCxcRetrieval(CxcCase):
    protocol = "cxc_retrieval"
    # The fifth caption of each image counts as wrong, and ties with the others.
    perfect = {f"{name}/recall_at_5": 1.0 for name in ("i2t", "t2i", "t2t")}
    collapsed = {**NO_RECALLS, "t2t/recall_at_1": 0.0, "i2i/recall_at_1": 0.0}


class TestCxcSimilarity(CxcCase):
    protocol = "cxc_similarity"
    perfect = {"sits/queries": 6.0, "sts/queries": 30.0, "sis/queries": 6.0}
    collapsed = {"mean/spearman": 0.0}
    # Groups of three images have no metric.
    column = None
    test_each_group_of_a_column_has_metrics_with_intervals = None


class ClassCase(ProtocolCase):
    column = "class"
    groups = COLORS

    def write(self, folder):
        for split in ("train", "test"):
            for row, color in enumerate(COLORS):
                for number in range(5):
                    write_image(folder / split / color / f"{number}.png", row)
        return {"data": str(folder)}


class TestZeroShot(ClassCase):
    protocol = "zero_shot"
    perfect = {"zero_shot/top_1": 1.0, "zero_shot/mean_per_class": 1.0}
    collapsed = {"zero_shot/top_1": 0.0, "zero_shot/top_5": 0.0}


class TestKnn(ClassCase):
    protocol = "knn"
    perfect = {"knn/recall_at_1": 1.0, "gallery": 40.0}
    # The first training image is the nearest neighbor of all images.
    collapsed = {"knn/recall_at_1": 1 / 8}


class TestLinearProbe(ClassCase):
    protocol = "linear_probe"
    perfect = {"linear_probe/top_1": 1.0, "linear_probe/mean_per_class": 1.0}
    collapsed = {"linear_probe/top_1": 0.0}


class TestMulti30k(ProtocolCase):
    protocol = "multi30k"
    perfect = {f"{name}/mean_recall": 1.0 for name in ("en", "de", "fr", "cs")}
    # With eight images, each of them is among the first ten.
    collapsed = {"en/i2t/recall_at_1": 0.0, "cs/t2i/recall_at_5": 0.0}
    column = "kind"
    groups = KINDS
    wrong_data = "flickr30k"

    def write(self, folder):
        images = folder / "flickr30k" / "images"
        names = write_multi30k(folder / "multi30k", images)
        metadata = write_metadata(folder, names)
        return {"data_root": str(folder), "metadata": metadata}

    def patch(self, monkeypatch):
        monkeypatch.setattr(multi30k_files, "IMAGES", len(COLORS))


class WordModel(ColorModel):
    """Model whose cosine of two words is the number in the second word, divided by 40.

    The first word of each pair is "word".
    """

    align = object()

    def encode_words(self, words):
        cosines = np.array([float(word.removeprefix("word") or 40) for word in words])
        cosines /= 40
        return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)


class CollapsedWordModel(WordModel):
    def encode_words(self, words):
        return np.ones((len(words), 2))


class TestSimlex(ProtocolCase):
    protocol = "simlex"
    perfect = {"all/spearman": 1.0, "hard/spearman": 1.0}
    collapsed = {"all/spearman": 0.0}
    column = "part_of_speech"
    groups = ("A", "N", "V")
    perfect_model = WordModel
    collapsed_model = CollapsedWordModel
    # The vectors of words are not cached.
    test_a_second_evaluation_computes_nothing = None

    def write(self, folder):
        lines = [
            f"word\tword{row}\t{'ANV'[row % 3]}\t{row / 4}\t2\t2\t{1 + row % 4}\t7\t"
            f"{row % 2}\t0"
            for row in range(40)
        ]
        return {"data": str(write_simlex(folder / "pairs.txt", lines))}

    def patch(self, monkeypatch):
        monkeypatch.setattr(simlex, "PAIRS", 40)


ICONS = [f"phosphor/{name}{end}" for name in COLORS[:4] for end in ("", "-plus")]


class IconModel(ColorModel):
    """Model that adds the last dimension for the word plus."""

    def image_vector(self, image):
        row, has_plus = divmod(ICONS.index(image.decode()), 2)
        return self._unit(self._one_hot(row) + 2 * has_plus * self._one_hot(-1))

    def text_vector(self, text):
        return self._one_hot(-1 if "plus" in text else 0)

    def _unit(self, vector):
        return vector / np.linalg.norm(vector)


class TestComposed(ProtocolCase):
    protocol = "composed"
    perfect = {"recall_at_1": 1.0}
    collapsed = {"recall_at_1": 0.0}
    column = "sign"
    groups = ("plus", "minus")
    wrong_data = "stamps"
    perfect_model = IconModel

    def write(self, folder):
        return {}

    def patch(self, monkeypatch):
        images = [icon.encode() for icon in ICONS]
        data = CaptionedImages(images, [["-"]] * 8, ICONS, [["-"]] * 8)
        monkeypatch.setattr(caption_protocols, "_corpus", lambda *_: data)


class TrainableModel(ColorModel):
    """Model for protocols that train. The training itself is replaced."""

    align = types.SimpleNamespace(image_encoder=True)


class CollapsedTrainableModel(TrainableModel, CollapsedModel):
    align = types.SimpleNamespace(image_encoder=False)


class ForgetfulTrainableModel(TrainableModel, ForgetfulModel):
    align = types.SimpleNamespace(image_encoder=None)


class TrialRunner:
    """Replacement of training: all predictions are correct, or all are wrong."""

    def __init__(self, is_perfect, data, strategy):
        self.is_perfect = is_perfect
        self.data = data

    def __call__(self, trial, scratch):
        assert self.is_perfect is not None, "a trial runs again"
        data = self.data.read(trial.task, trial.test_split)
        rank = 0 if self.is_perfect else len(data.class_names) - 1
        return {
            "ranks": [rank] * len(data.labels),
            "left_out": [],
            "predictions": data.labels.tolist(),
        }


class TrainingCase(ClassCase):
    perfect = {"top_1": 1.0, "top_5": 1.0, "mean_per_class": 1.0}
    collapsed = {"top_1": 0.0, "top_5": 0.0, "mean_per_class": 0.0}
    perfect_model = TrainableModel
    collapsed_model = CollapsedTrainableModel
    forgetful_model = ForgetfulTrainableModel

    def write(self, folder):
        return {**super().write(folder), "results": str(folder / "results")}

    def patch(self, monkeypatch):
        runner = "align_keras.protocols.trials.TrialRunner"
        monkeypatch.setattr(runner, TrialRunner)
        # All images can be decoded. TensorFlow would trace the decoder again.
        monkeypatch.setattr("align_keras.data.unreadable_rows", lambda _: [])


class TestImagenetFrozen(TrainingCase):
    protocol = "imagenet_frozen"


class TestImagenetFull(TrainingCase):
    protocol = "imagenet_full"


class TestFineGrained(TrainingCase):
    protocol = "fine_grained"


class TestVtab(TrainingCase):
    protocol = "vtab"
    perfect = {"vtab/dtd": 1.0}
    collapsed = {"vtab/dtd": 0.0}
    # All tasks are required for the mean.
    test_the_paper_publishes_metrics_of_these_names = None

    def write(self, folder):
        recipe = ["sweep.trials=2,runs=2"]
        results = str(folder / "results")
        return {"data": "vtab/dtd", "results": results, "params_override": recipe}

    def patch(self, monkeypatch):
        super().patch(monkeypatch)
        data = LabeledImages([b""] * 16, np.arange(16) % 8, COLORS)
        benchmark = fine_tuning_protocols.VtabData
        monkeypatch.setattr(benchmark, "read", lambda *_: data)
        monkeypatch.setattr(benchmark, "check", lambda *_: None)
        monkeypatch.setattr(benchmark, "identity", lambda *_: "dtd")


def test_each_protocol_has_a_case():
    cases = [
        case.protocol
        for case in globals().values()
        if isinstance(case, type) and issubclass(case, ProtocolCase) and case.protocol
    ]
    assert sorted(cases) == sorted(PROTOCOLS)
