"""Indexes a folder, slowly enough to be killed: FOLDER INDEX TOWERS."""

import sys
import time

from align_keras.search import Index, indexing

decode_square = indexing.decode_square


def read_slowly(*arguments):
    time.sleep(0.02)
    return decode_square(*arguments)


indexing.FILES_PER_CHUNK, indexing.IMAGES_PER_COMMIT = 2, 4
indexing.decode_square = read_slowly
Index.build(sys.argv[2], [sys.argv[1]], sys.argv[3])
