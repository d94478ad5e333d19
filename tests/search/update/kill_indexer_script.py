"""Indexes a folder so slowly that a test can kill it.

Arguments: the folder, the index and the model.
"""

import sys
import time

from align_keras.search import Index
from align_keras.search.update import file_embedding, update

decode_photo = file_embedding.decode_photo


def decode_slowly(*arguments):
    time.sleep(0.02)
    return decode_photo(*arguments)


file_embedding.FILES_PER_CHUNK = 2
update.IMAGES_PER_COMMIT = 4
file_embedding.decode_photo = decode_slowly
Index.build(sys.argv[2], [sys.argv[1]], sys.argv[3])
