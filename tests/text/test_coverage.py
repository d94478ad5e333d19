from tokenizers import BertWordPieceTokenizer

from align_keras.text.coverage import Coverage
from align_keras.text.vocabulary import learn_vocabulary, save_vocabulary

CAPTIONS = [
    "A red bicycle leans on a wall",
    "Ein rotes Fahrrad lehnt an der Wand",
    "Červené kolo se opírá o zeď",
] * 3


def test_it_counts_what_hugging_faces_tokenizer_gives(tmp_path):
    vocabulary = learn_vocabulary(CAPTIONS[:2], 60, min_frequency=1)
    save_vocabulary(vocabulary, tmp_path / "vocabulary.txt")
    oracle = BertWordPieceTokenizer(str(tmp_path / "vocabulary.txt"))
    encodings = oracle.encode_batch(CAPTIONS, add_special_tokens=False)
    words = sum(len(set(own.word_ids)) for own in encodings)
    tokens = sum(len(own.ids) for own in encodings)
    unknown = sum(own.tokens.count("[UNK]") for own in encodings)
    assert unknown  # Czech has letters that the vocabulary lacks.
    assert Coverage(vocabulary, "bert_uncased").count(CAPTIONS) == {
        "captions": 9,
        "words": words,
        "tokens_per_word": round(tokens / words, 4),
        "coverage": round(1 - unknown / words, 6),
    }


def test_nothing_is_covered_of_nothing():
    vocabulary = learn_vocabulary(CAPTIONS, 60)
    found = Coverage(vocabulary, "bert_cased").count([])
    assert found["words"] == found["coverage"] == 0
