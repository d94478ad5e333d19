"""Indexes a folder of images, and searches it by words, by an image and by both.

python search_images.py FOLDER INDEX, such as ~/photos photos_index.
"""

import sys

from align_keras.search import Index, Query

if len(sys.argv) != 3:
    sys.exit(__doc__)
folder, index_folder = sys.argv[1:]

# Embeds new images with the small model that comes with the package.
index = Index.build(index_folder, [folder])
print(len(index), "images,", index.changes.added, "of them new")


def show(hits):
    for hit in hits:
        # Searches with an image have no relevance, nor do indexes of under 20 images.
        relevance = "" if hit.relevance is None else f"{hit.relevance:.0%}"
        print(f"{hit.rank}. {hit.score:.3f} {relevance:4} {hit.path}")


show(index.query("a red flower", k=3))

# More images like the best one, but with something blue.
best = index.query("a red flower", k=1)[0]
show(index.query(Query(image=best.id, plus="blue", k=3)))

# Wide images only. The condition applies before the ranking.
show(index.query("an animal", k=3, where="width > height"))
