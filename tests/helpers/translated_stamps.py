"""Stamps with captions in several languages."""

import pathlib

from PIL import Image


def write_translated_stamps(folder: pathlib.Path) -> None:
    """Writes three stamps with English and German captions, two of them in French."""
    (folder / "animals").mkdir(parents=True)
    for number, name in enumerate(("cat", "dog", "eel")):
        path = folder / "animals" / name
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path.with_suffix(".png"))
        french = "fr.utf8=Un.\n" * (name != "eel")
        path.with_suffix(".txt").write_text(f"A {name}.\nde.utf8=Ein {name}.\n{french}")
