// Exact search in the embeddings of the images.

export class ImageIndex {
  /**
   * @param {Float32Array} embeddings rows of unit length, concatenated.
   * @param {object[]} entries one per row, with `id`, `captions` and `thumbnail`.
   */
  constructor(embeddings, entries) {
    this.embeddings = embeddings;
    this.entries = entries;
    this.dimension = embeddings.length / entries.length;
  }

  /** Returns the embedding of a row. */
  embedding(row) {
    return this.embeddings.subarray(row * this.dimension, (row + 1) * this.dimension);
  }

  /**
   * Ranks all images by their cosine similarity to a query.
   *
   * @param {Float32Array} query embedding of unit length.
   * @returns {{row: number, score: number}[]} hits in descending order of their cosines.
   *     Equal cosines remain in the order of the rows.
   */
  rank(query) {
    const hits = this.entries.map((_, row) => ({ row, score: dot(query, this.embedding(row)) }));
    return hits.sort((first, second) => second.score - first.score);
  }
}

function dot(first, second) {
  let sum = 0;
  for (let position = 0; position < first.length; position++) {
    sum += first[position] * second[position];
  }
  return sum;
}
