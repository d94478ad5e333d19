"""Measures recall on sources that a model was not trained on.

    python tools/benchmarks/bench_held_out.py --model align_small_en --model RUN

Settings of `align_small_en` are chosen by these sources, not by Tux Paint's stamps,
which are the test set. The script reads

- emoji: the emoji of Facebook, a vendor that is not in the training data, from
  `python -m tools.make_drawings emoji_facebook`,
- icons: Font Awesome, the test split of the corpus `icons` (qtawesome),
- color icons: the icon set flat-color-icons of Iconify, from
  `python -m tools.make_drawings iconify/flat-color-icons`,
- words: 282 images of GCompris with their names, from Debian's package
  gcompris-qt-data,
- word cards: 585 drawings with a word each, from Debian's package pysiogame,
- photographs: 49 photographs of monuments in gcompris-qt-data and 30 backgrounds
  in Debian's packages budgie-backgrounds and mate-backgrounds, with their names.

The table has recall at 1 and 10 from texts to images and from images to texts in
percent. The last column is the mean of both directions at 10. The last row of a model
is the mean of its sources, in which each source has the same weight.
"""

import argparse
import pathlib
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench_marks
from harness import run_benchmark  # noqa: E402

KS = (1, 10)
# Folder of the drawings that tools/make_drawings.py writes.
DRAWINGS = pathlib.Path("saved_models/drawings")
# Folders of the Debian packages.
GCOMPRIS = pathlib.Path("/usr/share/gcompris-qt/rcc")
WORD_CARDS = pathlib.Path("/usr/share/games/pysiogame/res/images/art4apps")
BACKGROUNDS = pathlib.Path("/usr/share/backgrounds")
# Subfolders of the backgrounds whose names describe a photograph.
BACKGROUND_FOLDERS = ("budgie", "mate/nature")
MONUMENTS = "explore_monuments"


def table_pairs(path):
    """Returns the paths of the images of a table and their captions."""
    from align_keras.datasets.benchmarks import read_caption_files

    table = read_caption_files(path)
    return table.images, table.captions


def word_card_pairs(folder):
    """Returns the paths of the drawings of pysiogame and the words on the cards."""
    files = sorted(folder.glob("*/*.jpg"))
    return [str(file) for file in files], [[f.stem.replace("_", " ")] for f in files]


def photograph_pairs(gcompris, backgrounds, target):
    """Returns the paths of the photographs and their names."""
    files = []
    resources = bench_marks.read_resources(gcompris / f"{MONUMENTS}.rcc")
    for name, content in sorted(resources):
        path = pathlib.PurePath(name)
        # The photographs are in one folder for each country.
        if path.suffix == ".webp" and path.parent.parent.name == "resource":
            file = target / path.name
            file.write_bytes(content)
            files.append(file)
    for folder in BACKGROUND_FOLDERS:
        files += sorted((backgrounds / folder).glob("*.jpg"))
    captions = [[bench_marks.name_words(file.stem)] for file in files]
    return [str(file) for file in files], captions


def read_sources(gcompris, word_cards, target):
    """Returns a dict from the name of a source to its images and captions."""
    return {
        "emoji": table_pairs(DRAWINGS / "emoji_facebook.jsonl"),
        "icons": bench_marks.icon_pairs(),
        "color icons": table_pairs(DRAWINGS / "iconify/flat-color-icons/pairs.jsonl"),
        "words": bench_marks.gcompris_pairs(gcompris, target),
        "word cards": word_card_pairs(word_cards),
    }


def recalls(model, images, captions):
    """Returns the five columns of a row in percent.

    All images with a caption count as correct for it.
    """
    texts = sorted({text for row in captions for text in row})
    number_of = {text: number for number, text in enumerate(texts)}
    is_correct = np.zeros((len(texts), len(images)), bool)
    for image, row in enumerate(captions):
        for text in row:
            is_correct[number_of[text], image] = True
    scores = model.encode_texts(texts) @ model.encode_images(images).T
    values = []
    for rows, correct in ((scores, is_correct), (scores.T, is_correct.T)):
        best = np.argsort(-rows, axis=1, kind="stable")[:, : max(KS)]
        hits = np.take_along_axis(correct, best, axis=1)
        values += [100 * hits[:, :k].any(axis=1).mean() for k in KS]
    return [*values, (values[1] + values[3]) / 2]


def main():
    """Prints the table of each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--gcompris", type=pathlib.Path, default=GCOMPRIS)
    parser.add_argument("--word-cards", type=pathlib.Path, default=WORD_CARDS)
    parser.add_argument("--backgrounds", type=pathlib.Path, default=BACKGROUNDS)
    arguments = parser.parse_args()
    import align_keras

    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder)
        sources = read_sources(arguments.gcompris, arguments.word_cards, target)
        sources["photographs"] = photograph_pairs(
            arguments.gcompris, arguments.backgrounds, target
        )
        for name in arguments.model:
            model = align_keras.load_model(name)
            print(f"{name}\n{'':12}  t2i R@1  R@10   i2t R@1  R@10   mean R@10")
            rows = []
            for source, (images, captions) in sources.items():
                rows.append(recalls(model, images, captions))
                print(row_text(source, rows[-1]), flush=True)
            print(row_text("mean", np.mean(rows, axis=0)), flush=True)


def row_text(name, values):
    """Returns a row of the table."""
    return (
        f"{name:12}  {values[0]:7.1f} {values[1]:5.1f}   {values[2]:7.1f} "
        f"{values[3]:5.1f}   {values[4]:9.1f}"
    )


if __name__ == "__main__":
    run_benchmark(main)
