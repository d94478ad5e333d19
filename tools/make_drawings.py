"""Writes drawings with captions from Debian and npm packages as tables and images.

    python -m tools.make_drawings clipart emoji iconify/flat-color-icons
    python -m tools.make_drawings --experiment align_small_en

Each name is a file or folder in `--out`:

- clipart: drawings of the Open Clip Art Library (Debian's openclipart-png and
  openclipart-svg) with cleaned titles, descriptions and file names,
- emoji: emoji of Google and Twitter (npm's emoji-datasource-google and
  emoji-datasource-twitter) with their English names,
- iconify/NAME: an icon set of Iconify (npm's @iconify-json/NAME) with the names of its
  icons. It needs the extra `svg`.
- clipart_texts: table of the uncleaned texts of the clip art, for `align-keras corpus`,
- emoji_names: tables of the emoji with their names in all languages (npm's
  cldr-annotations-full and cldr-annotations-derived-full), for `align-keras corpus`,
- emoji_facebook: table of the emoji of Facebook (npm's emoji-datasource-facebook), for
  tools/benchmarks/bench_held_out.py.

`task.train_data.corpus` accepts the folders `clipart`, `emoji` and `iconify/NAME`, and
joins several of them by `+`. They contain `pairs.jsonl` and PNG images on white, with a
margin that keeps the whole drawing in the crop of the evaluation. 5% of the drawings
are in the split `test`. Drawings with equal pixels are in the same split.
"""

import argparse
import hashlib
import json
import pathlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from align_keras.config import load_config
from align_keras.corpus.drop_counter import DropCounter
from align_keras.datasets.image_layout import ImageLayout
from align_keras.datasets.prepared_pairs import TABLE
from align_keras.datasets.splits import hashed_test_keys, linked_names
from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.files import atomic_folder, atomic_write
from tools.drawings import clipart, emoji
from tools.drawings.drawing import Drawing

OUT = pathlib.Path("saved_models/drawings")
CLIPART = pathlib.Path("/usr/share/openclipart")
# Pixels. Side of the images of clip art and icons, with their margins.
SIZE = 320
_TEST_FRACTION = 0.05
# Two threads limit the memory of very large images.
_THREADS = 2


def main(arguments: list[str] | None = None) -> None:
    """Writes the drawings of the command line, and prints their numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument(
        "--experiment",
        action="append",
        default=[],
        metavar="NAME",
        help="write the drawings that an experiment names",
    )
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    parser.add_argument(
        "--node-modules", type=pathlib.Path, default=pathlib.Path("node_modules")
    )
    parser.add_argument("--clipart", type=pathlib.Path, default=CLIPART)
    options = parser.parse_args(arguments)
    names = options.names + [
        name
        for experiment in options.experiment
        for name in drawings_of_experiment(experiment)
    ]
    if not names:
        parser.error("Name the drawings or --experiment.")
    try:
        for name in names:
            write(name, options.out, options.node_modules, options.clipart)
            print(f"wrote {name} to {options.out}")
    except InputError as error:
        parser.error(str(error))


def drawings_of_experiment(experiment: str) -> list[str]:
    """Returns the drawings among the training and validation corpora."""
    task = load_config(experiment).task
    corpora = [task.train_data.corpus, task.validation_data.corpus]
    paths = [pathlib.Path(name) for corpus in corpora for name in corpus.split("+")]
    return [
        path.relative_to(OUT).as_posix() for path in paths if path.is_relative_to(OUT)
    ]


def write(
    name: str,
    out: pathlib.Path,
    node_modules: pathlib.Path,
    clipart_folder: pathlib.Path = CLIPART,
) -> None:
    """Writes the drawings or texts of a name to a folder or file in `out`."""
    counter = DropCounter()
    if name == "clipart":
        drawings = clipart.drawings(clipart_folder, counter)
        write_folder(out / name, drawings, SIZE, counter)
    elif name == "emoji":
        drawings = emoji.drawings(node_modules, counter)
        write_folder(out / name, drawings, emoji.SIZE * 5 // 4, counter)
    elif name.startswith("iconify/"):
        # The module needs the extra svg.
        from tools.drawings import icon_sets

        drawings = icon_sets.drawings(
            node_modules, name.removeprefix("iconify/"), counter
        )
        write_folder(out / name, drawings, SIZE, counter)
    elif name == "clipart_texts":
        write_table(out / f"{name}.jsonl", clipart.text_rows(clipart_folder))
    elif name == "emoji_names":
        for language, rows in emoji.name_tables(node_modules):
            write_table(out / name / f"{language}.jsonl", rows)
    elif name == "emoji_facebook":
        rows = emoji.vendor_rows(node_modules, "facebook")
        write_table(out / f"{name}.jsonl", rows)
    else:
        raise InputError(
            "The name must be clipart, emoji, iconify/NAME, clipart_texts, emoji_names "
            f"or emoji_facebook. Received: {name}."
        )


def write_folder(
    folder: pathlib.Path,
    drawings: Iterable[Drawing],
    size: int,
    counter: DropCounter,
) -> None:
    """Writes images and their table to a new folder, or replaces an earlier one.

    Raises:
        InputError: if `folder` has files, but no table of drawings.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / TABLE).is_file():
        raise InputError(
            f"The folder of drawings must be new, or have {TABLE}. Received: {folder}. "
            "Choose another --out."
        )
    all_drawings = list(drawings)
    with atomic_folder(folder) as temporary:
        _write_drawings(temporary, all_drawings, size, counter)
    print("\n".join(counter.lines()))


def _write_drawings(
    folder: pathlib.Path,
    drawings: Sequence[Drawing],
    size: int,
    counter: DropCounter,
) -> None:
    """Writes the images and their table to an empty folder."""
    layout = ImageLayout(size=size, margin=True)

    def write_image(drawing: Drawing) -> str | ImageError:
        """Returns the pixel key, or the reason why the image can't be used."""
        try:
            content, key = layout.apply(drawing.load(drawing.source))
        except ImageError as error:
            return error
        path = folder / _image_name(drawing)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return key

    pairs = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for drawing, key in zip(drawings, pool.map(write_image, drawings), strict=True):
            if isinstance(key, ImageError):
                counter.drop(key.reason, drawing.id, key.detail)
            else:
                counter.keep()
                pairs.append((drawing, key))
    keys = split_keys(pairs)
    test_keys = hashed_test_keys(keys, _TEST_FRACTION)
    rows = [
        {
            "id": drawing.id,
            "image": _image_name(drawing),
            "caption": drawing.captions,
            "category": drawing.category,
            "split": "test" if key in test_keys else "train",
        }
        for (drawing, _), key in zip(pairs, keys, strict=True)
    ]
    write_table(folder / TABLE, rows)


def _image_name(drawing: Drawing) -> str:
    return f"images/{drawing.id}.png"


def split_keys(pairs: list[tuple[Drawing, str]]) -> list[str]:
    """Returns a key for each drawing and its pixel key. Equal keys are in one split.

    Drawings of a group are in one split, as are groups that equal pixels link.
    """
    links = [(drawing.group, key) for drawing, key in pairs if drawing.group]
    first_groups = linked_names(links)
    keys = []
    for drawing, key in pairs:
        if drawing.group:
            group = first_groups[drawing.group].encode()
            key = hashlib.blake2b(group, digest_size=16).hexdigest()
        keys.append(key)
    return keys


def write_table(path: pathlib.Path, rows: Iterable[dict]) -> None:
    """Writes a JSON line for each row."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
