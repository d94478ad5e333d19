// The tokenizer of BERT. It returns the ids of align_keras.text.WordPieceTokenizer.

// Prefix that marks special tokens. It is a private character, which is removed from the
// text of the user.
const SENTINEL = "\ue000";
// BERT replaces longer words by [UNK].
const MAX_CHARACTERS_PER_WORD = 100;

export class WordPieceTokenizer {
  /**
   * @param {string[]} vocabulary tokens in the order of their ids.
   * @param {object} options value of `tokenizer` in model.json. Its keys are
   *     `sequence_length`, `uncased`, `special_tokens` and `classes`. The character
   *     classes `spaces`, `removed`, `marks` and `isolated` are ranges of hexadecimal
   *     code points such as "30-39 5F".
   */
  constructor(vocabulary, options) {
    this.length = options.sequence_length;
    this.uncased = options.uncased;
    const names = options.special_tokens.map((token) => token.slice(1, -1));
    this.special = new RegExp(`\\[(${names.join("|")})\\]`, "g");
    this.spaces = characterClass(options.classes.spaces);
    this.removed = characterClass(options.classes.removed);
    this.marks = characterClass(options.classes.marks);
    this.isolated = characterClass(options.classes.isolated);
    this.ids = new Map();
    for (const [id, token] of vocabulary.entries()) {
      const isSpecial = options.special_tokens.includes(token);
      this.ids.set(isSpecial ? this.mark(token.slice(1, -1)) : token, id);
    }
    const specialId = (name) => this.ids.get(this.mark(name));
    this.unknownId = specialId("UNK");
    this.startId = specialId("CLS");
    this.endId = specialId("SEP");
  }

  /** Returns the word that `words` creates for a special token, SENTINEL + its name. */
  mark(name) {
    return SENTINEL + (this.uncased ? name.toLowerCase() : name);
  }

  /** Returns the words of a text after normalization. */
  words(text) {
    // Lone surrogates are not valid UTF-8, and the sentinel must not occur in the text.
    // Both are replaced by characters that are removed below. They cannot be removed
    // here, since "[MASK]" with such a character inside must not become a special token.
    text = text.replace(/[\ud800-\udfff]/gu, "\ufffd");
    text = text.replaceAll(SENTINEL, "\ue001");
    text = text.replace(this.special, ` ${SENTINEL}$1 `);
    text = text.replace(this.spaces, " ").replace(this.removed, "");
    if (this.uncased) {
      text = text.normalize("NFD").replace(this.marks, "");
      // Characters are converted one by one, since a final sigma would become "ς".
      text = Array.from(text, (character) => character.toLowerCase()).join("");
    }
    return text.replace(this.isolated, " $& ").split(" ").filter(Boolean);
  }

  /**
   * Returns the ids of the pieces of a word. Each piece is the longest prefix of the
   * remaining characters that the vocabulary contains.
   */
  pieceIds(word) {
    const characters = Array.from(word);
    if (characters.length > MAX_CHARACTERS_PER_WORD) return [this.unknownId];
    const ids = [];
    for (let start = 0; start < characters.length; ) {
      let end = characters.length;
      let id;
      while (end > start && id === undefined) {
        const piece = characters.slice(start, end).join("");
        id = this.ids.get(start ? `##${piece}` : piece);
        if (id === undefined) end -= 1;
      }
      if (id === undefined) return [this.unknownId];
      ids.push(id);
      start = end;
    }
    return ids;
  }

  /**
   * @param {string} text
   * @returns {{token_ids: number[], padding_mask: number[]}} ids of `[CLS]`, the text
   *     and `[SEP]`, and a mask of ones.
   */
  encode(text) {
    const ids = [];
    for (const word of this.words(text)) {
      ids.push(...this.pieceIds(word));
      if (ids.length >= this.length - 2) break;
    }
    const token_ids = [this.startId, ...ids.slice(0, this.length - 2), this.endId];
    return { token_ids, padding_mask: token_ids.map(() => 1) };
  }
}

/** Returns the tokens in the content of vocabulary.txt, one per line. */
export function readVocabulary(text) {
  return text.replace(/\n$/, "").split("\n");
}

/** Returns a regular expression for ranges of code points such as "30-39 5F". */
function characterClass(ranges) {
  const escaped = ranges
    .trim()
    .split(/\s+/)
    .map((part) => part.split("-").map((point) => `\\u{${point}}`).join("-"));
  return new RegExp(`[${escaped.join("")}]`, "gu");
}
