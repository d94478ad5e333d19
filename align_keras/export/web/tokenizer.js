// BERT's tokenizer: the ids of align_keras.text.WordPieceTokenizer.

// Private use: every other one is removed, so no text can hold it afterwards.
const SENTINEL = "\ue000";
// BERT's limit: longer words are unknown whatever the vocabulary holds.
const MAX_CHARACTERS_PER_WORD = 100;

export class WordPieceTokenizer {
  /**
   * @param {string[]} vocabulary the tokens in the order of their ids.
   * @param {object} options of model.json: `sequence_length`, `uncased`,
   *     `special_tokens`, and `classes` of code points (`spaces`, `removed`, `marks`,
   *     `isolated`), hexadecimal ranges as "30-39 5F".
   */
  constructor(vocabulary, options) {
    this.length = options.sequence_length;
    this.uncased = options.uncased;
    const inside = options.special_tokens.map((token) => token.slice(1, -1));
    this.special = new RegExp(`\\[(${inside.join("|")})\\]`, "g");
    this.spaces = characterClass(options.classes.spaces);
    this.removed = characterClass(options.classes.removed);
    this.marks = characterClass(options.classes.marks);
    this.isolated = characterClass(options.classes.isolated);
    this.ids = new Map();
    for (const [id, token] of vocabulary.entries()) {
      const isSpecial = options.special_tokens.includes(token);
      this.ids.set(isSpecial ? this.marked(token.slice(1, -1)) : token, id);
    }
    const special = (name) => this.ids.get(this.marked(name));
    this.pad = special("PAD");
    this.unknown = special("UNK");
    this.first = special("CLS");
    this.last = special("SEP");
  }

  /** How `words` spells a special token: as no other text can be spelled. */
  marked(inside) {
    return SENTINEL + (this.uncased ? inside.toLowerCase() : inside);
  }

  /** Normalizes a text and splits it into words. */
  words(text) {
    // Special tokens are sought in the raw text, before "[MA\0SK]" loses its NUL; so
    // what can't be UTF-8 (half a surrogate pair) and the sentinel become characters
    // that are removed later.
    text = text.replace(/[\ud800-\udfff]/gu, "\ufffd");
    text = text.replaceAll(SENTINEL, "\ue001");
    text = text.replace(this.special, ` ${SENTINEL}$1 `);
    text = text.replace(this.spaces, " ").replace(this.removed, "");
    if (this.uncased) {
      text = text.normalize("NFD").replace(this.marks, "");
      // Each character alone: in a word, the last sigma would become "ς".
      text = Array.from(text, (character) => character.toLowerCase()).join("");
    }
    return text.replace(this.isolated, " $& ").split(" ").filter(Boolean);
  }

  /** The ids of a word's pieces, the longest that are known from the left. */
  pieces(word) {
    const characters = Array.from(word);
    if (characters.length > MAX_CHARACTERS_PER_WORD) return [this.unknown];
    const ids = [];
    for (let start = 0; start < characters.length; ) {
      let end = characters.length;
      let id;
      while (end > start && id === undefined) {
        const piece = characters.slice(start, end).join("");
        id = this.ids.get(start ? `##${piece}` : piece);
        if (id === undefined) end -= 1;
      }
      if (id === undefined) return [this.unknown];
      ids.push(id);
      start = end;
    }
    return ids;
  }

  /**
   * @param {string} text
   * @returns {{token_ids: Int32Array, padding_mask: Int32Array}} `[CLS] … [SEP]`,
   *     filled up with `[PAD]`, and 1 on everything but the filling.
   */
  encode(text) {
    const ids = [];
    for (const word of this.words(text)) {
      ids.push(...this.pieces(word));
      if (ids.length >= this.length - 2) break;
    }
    const framed = [this.first, ...ids.slice(0, this.length - 2), this.last];
    const token_ids = new Int32Array(this.length).fill(this.pad);
    token_ids.set(framed);
    const padding_mask = new Int32Array(this.length).fill(1, 0, framed.length);
    return { token_ids, padding_mask };
  }
}

/** The tokens of a vocabulary.txt: one a line, in the order of their ids. */
export function readVocabulary(text) {
  return text.replace(/\n$/, "").split("\n");
}

function characterClass(ranges) {
  const escaped = ranges
    .trim()
    .split(/\s+/)
    .map((part) => part.split("-").map((point) => `\\u{${point}}`).join("-"));
  return new RegExp(`[${escaped.join("")}]`, "gu");
}
