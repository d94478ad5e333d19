"""Writes images and captions in the layouts of CLIP_benchmark, XM3600, SugarCrepe and
Winoground."""

import io
import json
import tarfile
import zipfile

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def encode(image, format="PNG"):
    """Returns the content of an image file of a `PIL.Image.Image`."""
    content = io.BytesIO()
    image.save(content, format, **({"lossless": True} if format == "WEBP" else {}))
    return content.getvalue()


def write_shards(folder, images, labels, split="test", shards=2):
    """Writes a split in CLIP_benchmark's format webdataset.

    Args:
        folder: `pathlib.Path`.
        images: List of `PIL.Image.Image`. The formats alternate.
        labels: List of int for classes, or list of lists of captions.
        split: Name of the split.
        shards: Number of tar files.
    """
    (folder / split).mkdir(parents=True)
    size = -(-len(images) // shards)
    for shard in range(shards):
        with tarfile.open(folder / split / f"{shard}.tar", "w") as tar:
            for row in range(shard * size, min((shard + 1) * size, len(images))):
                format = ("WEBP", "PNG", "JPEG")[row % 3]
                suffix = {"JPEG": "jpg"}.get(format, format.lower())
                key = f"s{row:07d}"
                _add(tar, f"{key}.{suffix}", encode(images[row], format))
                if isinstance(labels[row], int):
                    _add(tar, f"{key}.cls", str(labels[row]).encode())
                else:
                    _add(tar, f"{key}.txt", "\n".join(labels[row]).encode())
    (folder / split / "nshards.txt").write_text(f"{shards}\n")
    if not isinstance(labels[0], int):
        (folder / "dataset_type.txt").write_text("retrieval\n")


def write_class_shards(folder, images, labels, class_names, templates, **options):
    """Writes shards of images with classes, the class names and the prompts."""
    write_shards(folder, images, labels, **options)
    (folder / "classnames.txt").write_text("".join(f"{n}\n" for n in class_names))
    path = folder / "zeroshot_classification_templates.txt"
    path.write_text("".join(f"{template}\n" for template in templates))


def _add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_xm3600(folder, images, captions):
    """Writes `captions.jsonl` and `images/`.

    Args:
        folder: `pathlib.Path`.
        images: List of `PIL.Image.Image`.
        captions: Dict of language → list of the captions of each image.
    """
    (folder / "images").mkdir(parents=True)
    lines = []
    for row, image in enumerate(images):
        key = f"{row:016x}"
        (folder / "images" / f"{key}.jpg").write_bytes(encode(image))
        entry = {"image/key": key, "image/locale": list(captions)[row % len(captions)]}
        for language, texts in captions.items():
            tokens = [text.lower() for text in texts[row]]
            entry[language] = {
                "caption": texts[row],
                "caption/tokenized": tokens,
                "caption/tokenized/lowercase": tokens,
            }
        lines.append(json.dumps(entry, ensure_ascii=False))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def write_sugar_crepe(folder, images_folder, images, pairs):
    """Writes the JSON files of the categories, and the images.

    Args:
        folder: `pathlib.Path` of the JSON files.
        images_folder: `pathlib.Path` of `val2017`.
        images: List of `PIL.Image.Image`.
        pairs: Dict of category → list of (row of the image, caption, wrong caption).
    """
    folder.mkdir(parents=True, exist_ok=True)
    images_folder.mkdir(parents=True, exist_ok=True)
    for row, image in enumerate(images):
        (images_folder / f"{row:012d}.jpg").write_bytes(encode(image))
    for category, entries in pairs.items():
        content = {
            # The numbers of the entries have gaps.
            str(3 * number): {
                "filename": f"{row:012d}.jpg",
                "caption": caption,
                "negative_caption": negative_caption,
            }
            for number, (row, caption, negative_caption) in enumerate(entries)
        }
        (folder / f"{category}.json").write_text(json.dumps(content, indent=4))


def winoground_rows(examples):
    """Returns the fields of each example without its images.

    Args:
        examples: List of ((first image, second image), (first, second caption), tag).
    """
    return [
        {
            "id": number,
            "caption_0": captions[0],
            "caption_1": captions[1],
            "tag": "Noun",
            "secondary_tag": "",
            "num_main_preds": 1,
            "collapsed_tag": tag,
        }
        for number, (_, captions, tag) in enumerate(examples)
    ]


def write_winoground(folder, examples, packed=True):
    """Writes `data/examples.jsonl`, and `data/images.zip` or `data/images/`."""
    data = folder / "data"
    data.mkdir(parents=True)
    contents = {}
    lines = []
    for row, (images, _, _) in zip(winoground_rows(examples), examples, strict=True):
        for number, image in enumerate(images):
            name = f"ex_{row['id']}_img_{number}"
            row[f"image_{number}"] = name
            contents[f"{name}.png"] = encode(image)
        lines.append(json.dumps(row))
    (data / "examples.jsonl").write_text("\n".join(lines) + "\n")
    if packed:
        with zipfile.ZipFile(data / "images.zip", "w") as archive:
            for name, content in contents.items():
                archive.writestr(f"images/{name}", content)
    else:
        (data / "images").mkdir()
        for name, content in contents.items():
            (data / "images" / name).write_bytes(content)


def write_winoground_parquet(folder, examples):
    """Writes `data/test-00000-of-00001.parquet`, as the `datasets` library does."""
    import pyarrow
    import pyarrow.parquet

    rows = winoground_rows(examples)
    for row, (images, _, _) in zip(rows, examples, strict=True):
        for number, image in enumerate(images):
            name = f"ex_{row['id']}_img_{number}.png"
            row[f"image_{number}"] = {"bytes": encode(image), "path": name}
    (folder / "data").mkdir(parents=True)
    path = folder / "data" / "test-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def stamps(count=48, side=200):
    """Returns images and captions of Tux Paint's stamps.

    Returns:
        List of (`PIL.Image.Image`, dict of language → caption, category).
    """
    import pathlib

    from PIL import Image

    root = pathlib.Path("/usr/share/tuxpaint/stamps")
    all_stamps = []
    for path in sorted(root.rglob("*.txt")):
        lines = path.read_text(encoding="utf-8").splitlines()
        captions = {"en": lines[0]}
        for line in lines[1:]:
            language, _, caption = line.partition(".utf8=")
            if language in ("de", "fr", "cs"):
                captions[language] = caption
        image_path = path.with_suffix(".png")
        if len(captions) == 4 and image_path.exists():
            category = path.relative_to(root).parts[0]
            all_stamps.append((image_path, captions, category))
    step = max(len(all_stamps) // count, 1)
    chosen_stamps = []
    for image_path, captions, category in all_stamps[::step][:count]:
        rgba = Image.open(image_path).convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        white.thumbnail((side, side))
        chosen_stamps.append((white, captions, category))
    return chosen_stamps
