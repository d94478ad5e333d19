"""Writes images with captions or classes in the layout of CLIP_benchmark."""

import io
import tarfile

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
