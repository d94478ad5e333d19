"""Indexes a folder, slowly enough to be killed: FOLDER INDEX TOWERS."""

import sys

from align_keras.search import Index, indexing

indexing._CHUNK, indexing._COMMIT_IMAGES = 2, 4
Index.build(sys.argv[2], [sys.argv[1]], sys.argv[3])
