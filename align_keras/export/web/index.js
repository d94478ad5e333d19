// The pictures' embeddings, ranked by exact inner product.

export class PictureIndex {
  /**
   * @param {Float32Array} embeddings rows of unit length, one after another.
   * @param {object[]} entries one a row: `captions` and `thumbnail`, a file.
   */
  constructor(embeddings, entries) {
    this.embeddings = embeddings;
    this.entries = entries;
    this.dimension = embeddings.length / entries.length;
  }

  row(row) {
    return this.embeddings.subarray(row * this.dimension, (row + 1) * this.dimension);
  }

  /**
   * @param {Float32Array} query of unit length.
   * @returns {{row: number, score: number}[]} all rows, the best first; equal scores
   *     in the order of the rows. A score is a cosine.
   */
  rank(query) {
    const hits = this.entries.map((_, row) => ({ row, score: dot(query, this.row(row)) }));
    return hits.sort((left, right) => right.score - left.score);
  }
}

function dot(left, right) {
  let sum = 0;
  for (let position = 0; position < left.length; position++) {
    sum += left[position] * right[position];
  }
  return sum;
}
