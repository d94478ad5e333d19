"""Compares training data and settings of a small model on held-out sources.

    python tools/benchmarks/bench_small_model.py --out saved_models/bench_small_model

This script computes the inputs of the image projection once for each image, keeps them
in `--out`, and trains only the projection, which takes seconds instead of an hour.
Images are not augmented. The model is that of the experiment `align_small_en` with the
image encoder of `--encoder`. The script prints the recall at 10 in percent, the mean of
both directions, for each source of `bench_held_out.py`, their mean, and the recall of a
part of the clip art: the drawings of one in twelve authors, which no setting is trained
on. Each value is the mean of the seeds, and the last column has the standard deviation
of the mean of the sources. `--rows` computes some of the rows.

The icon sets are the npm packages @iconify-json/NAME in ALIGN_KERAS_ICONIFY_DIR. Each
`--corpus` is the folder of a corpus of `align-keras corpus` and adds a row.

The row "+ Papirus" needs Debian's package papirus-icon-theme. It adds the icons of
apps, devices and file types, whose names are captions.
"""

import argparse
import collections
import hashlib
import io
import pathlib
import re
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench_held_out
import bench_marks
from projection_training import Settings, train

SEEDS = (0, 1, 2)
# Variant of EfficientNet and size of the images in pixels. The tables were measured
# with it before `align_small_en` got a faster encoder (Lite0 at 144 pixels).
ENCODER = ("lite2", 160)
# Number of tokens of a text, with which the tables were measured.
SEQUENCE_LENGTH = 32
DRAWINGS = ("clipart", "emoji")
EMOJI = ("iconify/fluent-emoji-flat", "iconify/emojione", "iconify/streamline-emojis")
COLOR = (
    "iconify/streamline-ultimate-color",
    "iconify/streamline-freehand-color",
    "iconify/streamline-kameleon-color",
    "iconify/streamline-stickies-color",
)
TWO_COLORS = ("iconify/streamline-color", "iconify/streamline-plump-color")
ALL = (*DRAWINGS, *EMOJI, *COLOR, *TWO_COLORS, "iconify/icon-park")
MORE_EMOJI = ("iconify/fluent-emoji", "iconify/noto-v1")
MORE_COLOR = (
    "iconify/streamline-flex-color",
    "iconify/streamline-sharp-color",
    "iconify/streamline-cyber-color",
    "iconify/marketeq",
    "iconify/meteocons",
)
BLACK = (
    "iconify/game-icons",
    "iconify/tabler",
    "iconify/lucide",
    "iconify/pinhead",
    "iconify/icon-park-solid",
    "iconify/boxicons",
    "iconify/mingcute",
    "iconify/carbon",
)
MORE = (*ALL, *MORE_EMOJI, *MORE_COLOR, *BLACK)
PAPIRUS = pathlib.Path("/usr/share/icons/Papirus/64x64")
# Name of a row → corpora and settings. A corpus that is listed twice has twice the
# influence.
ROWS = {
    "clip art, two emoji vendors": (DRAWINGS, Settings()),
    "+ three emoji vendors": ((*DRAWINGS, *EMOJI), Settings()),
    "+ icons in color": ((*DRAWINGS, *EMOJI, *COLOR), Settings()),
    "+ icons in two colors": ((*DRAWINGS, *EMOJI, *COLOR, *TWO_COLORS), Settings()),
    "+ icon-park (all)": (ALL, Settings()),
    "all, 300 steps": (ALL, Settings(300)),
    "all, 600 steps": (ALL, Settings(600)),
    "all, 600 steps, dropout 0.3": (ALL, Settings(600, dropout=0.3)),
    "all, 600 steps, no class names": (ALL, Settings(600, class_names=False)),
    "all, 600 steps, smoothing 0.1": (ALL, Settings(600, label_smoothing=0.1)),
    "all + 2 emoji sets": ((*ALL, *MORE_EMOJI), Settings(600, dropout=0.3)),
    "+ 5 icon sets in color": (
        (*ALL, *MORE_EMOJI, *MORE_COLOR),
        Settings(600, dropout=0.3),
    ),
    "+ 8 icon sets in black": (MORE, Settings(1200, dropout=0.3)),
    "all and emoji twice": ((*MORE, *ALL, *MORE_EMOJI), Settings(1200, dropout=0.3)),
}
if PAPIRUS.is_dir():
    ROWS["+ Papirus"] = ((*ALL, "papirus"), Settings(600, dropout=0.3))
PAPIRUS_FOLDERS = ("apps", "devices", "mimetypes")
# Pixels of a rendered icon.
PAPIRUS_SIDE = 256
# Number of authors of clip art of which one is held out.
AUTHORS_PER_HELD_OUT = 12
_CREATOR = re.compile(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>", re.DOTALL)


def untrained_model(encoder=ENCODER):
    """Returns the untrained model of the experiment with a preprocessor.

    Args:
        encoder: tuple of the variant of EfficientNet and the size in pixels.
    """
    from align_keras.config import load_config
    from align_keras.models.warm_start import text_weights
    from align_keras.runs.assemble import build_model

    variant, side = encoder
    section = "task.model.image_encoder"
    overrides = [
        f"{section}.variant=efficientnet_{variant}",
        f"{section}.weights=efficientnet-{variant}",
        f"{section}.image_size={side}",
        f"task.model.text_encoder.sequence_length={SEQUENCE_LENGTH}",
    ]
    config = load_config("align_small_en", params_override=",".join(overrides))
    model_config = config.task.model
    vocabulary = text_weights(model_config.text_encoder.weights).vocabulary
    return build_model(model_config, vocabulary)


def features_folder(out, encoder):
    """Returns the folder of the features of an encoder.

    Args:
        out: path, folder of the features of `ENCODER`.
        encoder: tuple of the variant of EfficientNet and the size in pixels.
    """
    if encoder == ENCODER:
        return out
    variant, side = encoder
    return out / f"{variant}_{side}"


class Features:
    """Inputs of the projection in a folder, and embeddings of texts.

    Args:
        model: untrained `ALIGN`.
        folder: path of the folder.
        texts: dict of the embeddings of texts that models with the same text encoder
            share.
    """

    def __init__(self, model, folder, texts=None):
        import keras
        import tensorflow as tf

        self._model = model
        self._folder = folder
        encoder = model.image_encoder
        projection = encoder.get_layer("projection")
        self.kernel = np.asarray(projection.kernel)
        self._graph = tf.function(keras.Model(encoder.inputs, projection.input))
        self._texts = {} if texts is None else texts
        folder.mkdir(parents=True, exist_ok=True)

    def images(self, name, read):
        """Returns the features and captions of a source. `read` returns its pairs."""
        from align_keras.models.embedding import embed_images

        path = self._folder / f"{name.replace('/', '_')}.npz"
        if not path.exists():
            images, captions, keep = read()
            rows = embed_images(
                images,
                lambda batch: self._graph(batch).numpy(),
                self._model.preprocessor.image_converter,
                self.kernel.shape[0],
            )
            joined = np.array(["\n".join(texts) for texts in captions])
            np.savez(path, rows=rows, captions=joined, keep=keep)
            print(f"computed {len(rows):,} features of {name}", flush=True)
        stored = np.load(path)
        captions = [text.split("\n") for text in stored["captions"]]
        return stored["rows"], captions, stored["keep"]

    def texts(self, captions):
        """Returns the embeddings of captions."""
        missing = sorted(set(captions) - set(self._texts))
        if missing:
            rows = self._model.encode_texts(missing)
            self._texts.update(zip(missing, rows, strict=True))
        return np.stack([self._texts[caption] for caption in captions])


def corpus_pairs(name):
    """Returns the images and captions of a corpus, and which are not held out."""
    if name == "papirus":
        return papirus_pairs()
    import tensorflow_datasets as tfds

    from align_keras.datasets import open_corpus

    rows = list(tfds.as_numpy(open_corpus(name).as_dataset(split="all")))
    captions = [[text.decode() for text in row["captions"]] for row in rows]
    keep = np.ones(len(rows), bool)
    if name == "clipart":
        keep = np.array([not is_held_out(row["id"].decode()) for row in rows])
    return [row["image"] for row in rows], captions, keep


def papirus_pairs():
    """Renders the icons of Papirus on white.

    Returns:
        Tuple as of `corpus_pairs`. The names of the links to an icon are captions too.
    """
    import resvg_py
    from PIL import Image

    names = collections.defaultdict(list)
    for folder in PAPIRUS_FOLDERS:
        for file in sorted((PAPIRUS / folder).glob("*.svg")):
            words = bench_marks.name_words(file.stem.replace(".", " "))
            if re.search("[a-z]{3}", words) and file.exists():
                names[file.resolve()].append(words)
    images, captions = [], []
    for file, texts in sorted(names.items()):
        content = resvg_py.svg_to_bytes(svg_path=str(file), width=PAPIRUS_SIDE)
        icon = Image.open(io.BytesIO(bytes(content))).convert("RGBA")
        white = Image.new("RGBA", icon.size, "white")
        images.append(np.asarray(Image.alpha_composite(white, icon).convert("RGB")))
        captions.append(sorted(set(texts)))
    return images, captions, np.ones(len(images), bool)


def is_held_out(identifier):
    """Returns whether a drawing's author is held out."""
    from align_keras.datasets.clipart import CLIPART_DIR

    path = pathlib.Path(CLIPART_DIR, "svg", f"{identifier}.svg")
    text = path.read_text(errors="ignore") if path.exists() else ""
    match = _CREATOR.search(text)
    digest = hashlib.md5((match[1].strip() if match else "").encode()).hexdigest()
    return int(digest, 16) % AUTHORS_PER_HELD_OUT == 0


def read_held_out(features):
    """Returns a dict from the name of a held-out source to features and captions."""
    held_out = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = bench_held_out.read_sources(
            bench_held_out.GCOMPRIS, bench_held_out.WORD_CARDS, pathlib.Path(folder)
        )
        for name, (images, captions) in sources.items():
            pairs = (images, captions, np.ones(len(images), bool))
            # A corpus for training has the same name as a held-out source.
            rows, captions, _ = features.images(
                f"held_out/{name}", lambda pairs=pairs: pairs
            )
            held_out[name] = (rows, captions)
    return held_out


def read_corpora(features, names=ALL):
    """Returns a dict from the name of a corpus to its tuple of `Features.images`."""
    return {
        name: features.images(name, lambda name=name: corpus_pairs(name))
        for name in names
    }


def recalls_at_10(model, held_out):
    """Returns recall at 10 of each source in percent."""
    return [
        bench_held_out.recalls(model, rows, captions)[-1]
        for rows, captions in held_out.values()
    ]


def measure(features, held_out, parts, settings):
    """Returns recall at 10 of each source and seed in percent, (seeds, sources)."""
    models = [train(features, parts, seed, settings) for seed in SEEDS]
    return np.array([recalls_at_10(model, held_out) for model in models])


def with_authors(held_out, corpora):
    """Returns the held-out sources, followed by the held-out authors of clip art."""
    rows, captions, keep = corpora["clipart"]
    author_captions = [captions[number] for number in np.flatnonzero(~keep)]
    return {**held_out, "authors": (rows[~keep], author_captions)}


def print_header(sources):
    """Prints the names of the columns of `print_row`."""
    *names, _ = sources
    cells = " ".join(f"{name:>11}" for name in names)
    print(f"{'':32} {cells}   mean authors  ±")


def print_row(name, table):
    """Prints a row of recalls, (seeds, sources). The last source is `authors`."""
    table = np.array(table)
    means = table[:, :-1].mean(axis=1)
    *recalls, of_authors = table.mean(axis=0)
    cells = " ".join(f"{value:11.1f}" for value in recalls)
    spread = f"{means.std(ddof=1):.1f}" if len(means) > 1 else "-"
    print(
        f"{name:32} {cells} {means.mean():6.1f} {of_authors:7.1f} {spread}", flush=True
    )


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument(
        "--encoder",
        nargs=2,
        default=ENCODER,
        metavar=("VARIANT", "PIXELS"),
        help="variant of EfficientNet and size of the images, such as lite0 144",
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--corpus",
        action="append",
        default=[],
        help="folder of a corpus of `align-keras corpus`, for another row",
    )
    arguments = parser.parse_args()
    from align_keras.utils.errors import InputError

    variant, side = arguments.encoder
    try:
        model = untrained_model((variant, side))
    except InputError as error:
        parser.error(str(error))
    features = Features(model, features_folder(arguments.out, (variant, int(side))))
    held_out = read_held_out(features)
    rows = {row: ROWS[row] for row in arguments.rows}
    for folder in arguments.corpus:
        rows[f"+ {folder}"] = ((*ALL, folder), Settings(600, dropout=0.3))
    names = dict.fromkeys(name for row_names, _ in rows.values() for name in row_names)
    corpora = read_corpora(features, names)
    sources = with_authors(held_out, corpora)
    print_header(sources)
    for row, (row_names, settings) in rows.items():
        parts = [corpora[name] for name in row_names]
        print_row(row, measure(features, sources, parts, settings))


if __name__ == "__main__":
    main()
