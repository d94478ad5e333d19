// Exact search in the embeddings of the images.

export class ImageIndex {
  /**
   * @param {Float32Array} embeddings rows of unit length, concatenated.
   * @param {object[]} entries one per row, with `id`, `captions` and `thumbnail`.
   * @param {Object<string, number>} weights `RELEVANCE_WEIGHTS` of align_keras.
   */
  constructor(embeddings, entries, weights) {
    this.embeddings = embeddings;
    this.entries = entries;
    this.weights = weights;
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

  /**
   * Estimates the probability that an image is right, as `relevance` in
   * align_keras/search/query.py.
   *
   * @param {{score: number}[]} hits all images, ranked for a query of words.
   * @returns {?number[]} probability of each hit, or null if there are too few images.
   */
  relevance(hits) {
    const { height, crowd, bias, steepness, fewest_images: fewestImages } = this.weights;
    if (hits.length < fewestImages) return null;
    const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const scores = hits.map((hit) => hit.score);
    const mean = average(scores);
    const deviation = Math.max(Math.sqrt(average(scores.map((score) => (score - mean) ** 2))), 1e-6);
    const heights = scores.map((score) => (score - mean) / deviation);
    const total = heights.reduce((sum, value) => sum + Math.exp(steepness * value), 0);
    return heights.map((value) => {
      const logit = height * value + crowd * Math.log(total) + bias;
      return 1 / (1 + Math.exp(-Math.min(Math.max(logit, -4.6), 4.6)));
    });
  }
}

function dot(first, second) {
  let sum = 0;
  for (let position = 0; position < first.length; position++) {
    sum += first[position] * second[position];
  }
  return sum;
}
