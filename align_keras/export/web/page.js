// Search page. It loads the model and the index, runs queries and shows the hits.

import { MissingFileError, readFile, readText } from "./files.js";
import { ImageError, readImage } from "./image.js";
import { ImageIndex } from "./index.js";
import { WordPieceTokenizer, readVocabulary } from "./tokenizer.js";
import { RuntimeLoadError, Tower, startRuntime } from "./towers.js";

const HITS_PER_PAGE = 24;
const CAPTIONS_PER_HIT = 3;
const EXAMPLE_QUERIES = 5;
// Characters. Longer captions are not offered as example queries.
const MAX_EXAMPLE_LENGTH = 40;

const element = (id) => document.getElementById(id);
const createElement = (name, properties = {}, ...children) => {
  const created = Object.assign(document.createElement(name), properties);
  created.append(...children);
  return created;
};
const state = {
  ready: null, // promise that resolves when text queries can run
  imageTower: null, // promise of the image tower, null until the first image query
  hits: [],
  visibleHits: 0,
  searches: 0,
};

// === Loading ===

async function load() {
  const settings = JSON.parse(await readText("model/model.json"));
  const paths = ["model/vocabulary.txt", "model/text.tflite", "images/embeddings.bin", "images/images.json"];
  const progress = showProgress("the text model and the index", paths, settings.files);
  const read = (path) => readFile(path, progress.add);
  const [[vocabulary, textTower, embeddings, entries], litert] = await Promise.all([
    Promise.all(paths.map(read)),
    startRuntime(),
  ]);
  const decode = (bytes) => new TextDecoder().decode(bytes);
  showStatus("Preparing the text model…");
  state.settings = settings;
  state.litert = litert;
  state.index = openIndex(embeddings, JSON.parse(decode(entries)), settings);
  state.tokenizer = new WordPieceTokenizer(readVocabulary(decode(vocabulary)), settings.tokenizer);
  state.textTower = await Tower.load(litert, textTower);
  progress.end();
}

function openIndex(bytes, entries, { dimension, relevance }) {
  if (bytes.length !== entries.length * dimension * 4) {
    throw new MissingFileError(`images/embeddings.bin (${bytes.length} bytes for ${entries.length} images)`);
  }
  return new ImageIndex(new Float32Array(bytes.buffer), entries, relevance);
}

async function loadImageTower() {
  const path = "model/image.tflite";
  const progress = showProgress("the image model", [path], state.settings.files);
  const file = await readFile(path, progress.add);
  progress.end();
  return Tower.load(state.litert, file);
}

/**
 * Shows the progress of a download.
 *
 * @param {string} title description of the files.
 * @param {string[]} paths the files.
 * @param {Object<string, number>} sizes bytes of each file, by its path.
 * @returns {{add: (bytes: number) => void, end: () => void}} functions that count
 *     received bytes and hide the progress.
 */
function showProgress(title, paths, sizes) {
  const total = paths.reduce((sum, path) => sum + sizes[path], 0);
  const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
  let received = 0;
  const show = () => {
    // The error about a missing file must remain visible.
    if (!element("error").hidden) return;
    element("progress").max = total;
    element("progress").value = received;
    showStatus(`Loading ${title}: ${megabytes(received)} of ${megabytes(total)} MB`);
  };
  const add = (bytes) => {
    received += bytes;
    show();
  };
  element("loading").hidden = false;
  show();
  const end = () => (element("loading").hidden = true);
  return { add, end };
}

// === Searching ===

async function embedImage(file) {
  const { image_size: size, resize_size: resizeSize, max_pixels: maxPixels } = state.settings;
  const images = await readImage(file, size, resizeSize, maxPixels).catch((error) => {
    if (error instanceof ImageError) error.name = file.name || "The image";
    throw error;
  });
  state.imageTower ??= loadImageTower();
  const tower = await state.imageTower.catch((error) => {
    // The next image query loads the tower again.
    state.imageTower = null;
    throw error;
  });
  return tower.embed({ images });
}

/**
 * Runs a search and shows its hits. A newer search cancels an older one.
 *
 * @param {string} heading heading of the hits.
 * @param {string?} imageUrl URL of the image of an image query, or null.
 * @param {() => Promise<Float32Array>} embed returns the embedding of the query.
 * @param {boolean} isText true if the query is a text, whose hits have a relevance.
 */
async function search(heading, imageUrl, embed, isText = false) {
  const searchNumber = ++state.searches;
  element("error").hidden = true;
  try {
    await state.ready;
    if (searchNumber !== state.searches) return;
    showStatus("Searching…");
    const started = performance.now();
    const query = await embed();
    const hits = state.index.rank(query);
    const relevance = isText ? state.index.relevance(hits) : null;
    if (searchNumber !== state.searches) return;
    const seconds = (performance.now() - started) / 1000;
    showHits(heading, imageUrl, hits.map((hit, rank) => ({ ...hit, relevance: relevance?.[rank] })));
    showStatus(`${countImages(state.index.entries.length)} ranked in ${seconds.toFixed(2)} s. Click an image to find similar images.`);
  } catch (error) {
    if (searchNumber === state.searches) showError(error);
  }
}

function countImages(count) {
  return `${count.toLocaleString("en")} ${count === 1 ? "image" : "images"}`;
}

function searchText(text) {
  if (text.trim()) search(`“${text.trim()}”`, null, () => state.textTower.embed(state.tokenizer.encode(text)), true);
}

function searchFile(file) {
  element("query").value = "";
  search(file.name || "Your image", URL.createObjectURL(file), () => embedImage(file));
}

function searchSimilar(row) {
  element("query").value = "";
  const entry = state.index.entries[row];
  search(`Similar to ${label(entry)}`, thumbnailUrl(entry), async () => state.index.embedding(row));
  element("heading").focus();
}

// === Display ===

function showStatus(text) {
  element("status").textContent = text;
}

/** Returns the first caption of an image, or its name if it has no captions. */
function label(entry) {
  return entry.captions[0] ?? entry.id;
}

function thumbnailUrl(entry) {
  return new URL(`../images/${entry.thumbnail}`, import.meta.url).href;
}

function showHits(heading, imageUrl, hits) {
  state.hits = hits;
  state.visibleHits = 0;
  const image = element("query-image");
  if (image.src.startsWith("blob:") && image.src !== imageUrl) URL.revokeObjectURL(image.src);
  if (imageUrl) image.src = imageUrl;
  else image.removeAttribute("src");
  image.hidden = !imageUrl;
  element("heading").textContent = heading;
  element("hits").replaceChildren();
  showNextHits();
  element("results").hidden = false;
}

function showNextHits() {
  const next = state.hits.slice(state.visibleHits, state.visibleHits + HITS_PER_PAGE);
  element("hits").append(...next.map(createHit));
  state.visibleHits += next.length;
  element("show-more").hidden = state.visibleHits >= state.hits.length;
}

/** Returns the list item of a hit. Sample images have no score. */
function createHit({ row, score, relevance }) {
  const entry = state.index.entries[row];
  const caption = entry.captions.slice(0, CAPTIONS_PER_HIT).join(" · ") || entry.id;
  const image = createElement("img", { src: thumbnailUrl(entry), alt: label(entry), loading: "lazy" });
  const frame = createElement("button", { type: "button", className: "frame", title: "Find similar images" }, image);
  frame.addEventListener("click", () => searchSimilar(row));
  const text = createElement("figcaption", {}, createElement("span", { className: "caption", dir: "auto", textContent: caption, title: caption }));
  const item = createElement("li", {}, createElement("figure", {}, frame, text));
  item.dataset.row = row;
  if (score !== undefined) {
    item.dataset.score = score;
    const match = relevance === undefined ? "" : `${Math.round(100 * relevance)}% match, `;
    text.append(createElement("span", { className: "score", textContent: `${match}${score.toFixed(3)}` }));
  }
  return item;
}

/** Returns up to `count` rows at equal distances in an index of `total` rows. */
function spreadRows(total, count) {
  const length = Math.min(count, total);
  return Array.from({ length }, (_, position) => Math.floor((position * total) / length));
}

/** Shows sample images and example queries before the first search. */
function showSamples() {
  const { entries } = state.index;
  const captions = spreadRows(entries.length, 8 * EXAMPLE_QUERIES)
    .map((row) => entries[row].captions[0] ?? "")
    .filter((text) => text && text.length <= MAX_EXAMPLE_LENGTH);
  for (const text of [...new Set(captions)].slice(0, EXAMPLE_QUERIES)) {
    const button = createElement("button", { type: "button", textContent: text, dir: "auto" });
    button.addEventListener("click", () => {
      element("query").value = text;
      searchText(text);
    });
    element("examples").append(button);
  }
  element("examples").hidden = !captions.length;
  if (!state.searches) {
    const rows = spreadRows(entries.length, HITS_PER_PAGE);
    showHits("Sample images", null, rows.map((row) => ({ row })));
    showStatus("Ready. Click an image to find similar images.");
  }
}

function showError(error) {
  element("loading").hidden = true;
  showStatus("");
  element("error").textContent = describe(error);
  element("error").hidden = false;
}

function describe(error) {
  if (error instanceof ImageError) return `${error.name} cannot be used as a query. ${error.message}. Choose a JPEG, PNG, GIF, BMP or WebP image.`;
  if (error instanceof RuntimeLoadError) return `The runtime @litertjs/core cannot start: ${error.message}. Run “npm install” in the page’s folder as described in its README.txt, then load the page again.`;
  if (error instanceof MissingFileError) return `The page’s folder is incomplete. Cannot read ${error.message}. Copy the whole folder, or export it again.`;
  return `An unexpected error occurred: ${error.message ?? error}. Load the page again. If the error remains, export the page again.`;
}

// === Events ===

function searchFirstFile(files) {
  if (files.length) searchFile(files[0]);
}

function listen() {
  element("search").addEventListener("submit", (event) => {
    event.preventDefault();
    searchText(element("query").value);
  });
  element("choose").addEventListener("click", () => element("file").click());
  element("file").addEventListener("change", (event) => {
    searchFirstFile(event.target.files);
    // The browser reports no change if the same file is chosen twice. An empty value
    // makes it report the second choice too.
    event.target.value = "";
  });
  element("show-more").addEventListener("click", showNextHits);
  const handleDrag = (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("dropping", event.type === "dragover");
    if (event.type === "drop") searchFirstFile(event.dataTransfer.files);
  };
  for (const name of ["dragover", "dragleave", "drop"]) document.addEventListener(name, handleDrag);
  document.addEventListener("paste", (event) => searchFirstFile(event.clipboardData.files));
}

if (!document.documentElement.dataset.fault) {
  listen();
  state.ready = load();
  state.ready.then(showSamples).catch(showError);
}
