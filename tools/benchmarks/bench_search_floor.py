"""Embeds a text with nothing but libraries, for compare.py."""

import sqlite3  # noqa: F401
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from tokenizers import BertWordPieceTokenizer

folder = sys.argv[1]
tokenizer = BertWordPieceTokenizer(f"{folder}/assets/tokenizer/vocabulary.txt")
token_ids = np.array([tokenizer.encode("a red bicycle").ids], np.int32)
tower = Interpreter(f"{folder}/text.tflite", num_threads=1).get_signature_runner()
tower(token_ids=token_ids, padding_mask=np.ones_like(token_ids))
