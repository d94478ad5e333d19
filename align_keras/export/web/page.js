// The page: loads the files, takes queries, shows hits.

import { FileMissing, readFile, readText } from "./files.js";
import { PictureIndex } from "./index.js";
import { PictureError, readPicture } from "./picture.js";
import { WordPieceTokenizer, readVocabulary } from "./tokenizer.js";
import { RuntimeMissing, Tower, startRuntime } from "./towers.js";

const HITS_AT_A_TIME = 24;
const CAPTIONS_SHOWN = 3;
const EXAMPLES = 5;
const LONGEST_EXAMPLE = 40;

const element = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const state = {
  ready: null, // the promise of everything that a text query needs
  imageTower: null, // the promise of what a picture needs besides, from the first on
  hits: [],
  shown: 0,
  searches: 0,
};

// === Loading ===

async function load() {
  const about = JSON.parse(await readText("model/model.json"));
  const paths = ["model/vocabulary.txt", "model/text.tflite", "pictures/embeddings.bin", "pictures/pictures.json"];
  const progress = showProgress("the text model and the index", paths, about.files);
  const read = (path) => readFile(path, progress.add);
  const [[vocabulary, textTower, embeddings, entries], litert] = await Promise.all([
    Promise.all(paths.map(read)),
    startRuntime(),
  ]);
  const decode = (bytes) => new TextDecoder().decode(bytes);
  say("Preparing the text model…");
  state.about = about;
  state.litert = litert;
  state.index = openIndex(embeddings, JSON.parse(decode(entries)), about.dimension);
  state.tokenizer = new WordPieceTokenizer(readVocabulary(decode(vocabulary)), about.tokenizer);
  state.textTower = await Tower.load(litert, textTower);
  progress.end();
}

function openIndex(bytes, entries, dimension) {
  if (bytes.length !== entries.length * dimension * 4) {
    throw new FileMissing(`pictures/embeddings.bin (${bytes.length} bytes for ${entries.length} pictures)`);
  }
  return new PictureIndex(new Float32Array(bytes.buffer), entries);
}

async function loadImageTower() {
  const path = "model/image.tflite";
  const progress = showProgress("the picture model", [path], state.about.files);
  const file = await readFile(path, progress.add);
  progress.end();
  return Tower.load(state.litert, file);
}

/** Shows how much of some files has come; what they are is said in words. */
function showProgress(words, paths, sizes) {
  const total = paths.reduce((sum, path) => sum + sizes[path], 0);
  const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
  let come = 0;
  const show = () => {
    if (!element("error").hidden) return; // another file is missing
    element("progress").max = total;
    element("progress").value = come;
    say(`Loading ${words}: ${megabytes(come)} of ${megabytes(total)} MB`);
  };
  const add = (bytes) => {
    come += bytes;
    show();
  };
  element("loading").hidden = false;
  show();
  const end = () => (element("loading").hidden = true);
  return { add, end };
}

// === Searching ===

async function embedPicture(file) {
  const { image_size: size, resize_size: resizeSize, max_pixels: maxPixels } = state.about;
  const images = await readPicture(file, size, resizeSize, maxPixels).catch((error) => {
    if (error instanceof PictureError) error.name = file.name || "The picture";
    throw error;
  });
  state.imageTower ??= loadImageTower();
  const tower = await state.imageTower.catch((error) => {
    state.imageTower = null; // the next picture tries again
    throw error;
  });
  return tower.embed({ images });
}

/**
 * Runs one search; of several at once, the last one's hits are shown.
 *
 * @param {string} heading of the hits.
 * @param {string?} picture URL of the picture that is searched with.
 * @param {() => Promise<Float32Array>} embed gives the query's embedding.
 */
async function search(heading, picture, embed) {
  const own = ++state.searches;
  element("error").hidden = true;
  try {
    await state.ready;
    if (own !== state.searches) return;
    say("Searching…");
    const started = performance.now();
    const query = await embed();
    const hits = state.index.rank(query);
    if (own !== state.searches) return;
    const seconds = (performance.now() - started) / 1000;
    showHits(heading, picture, hits);
    say(`${state.index.entries.length.toLocaleString("en")} pictures ranked in ${seconds.toFixed(2)} s. Click one to find similar ones.`);
  } catch (error) {
    if (own === state.searches) showError(error);
  }
}

function searchText(text) {
  if (text.trim()) search(`“${text.trim()}”`, null, () => state.textTower.embed(state.tokenizer.encode(text)));
}

function searchFile(file) {
  element("query").value = "";
  search(file.name || "Your picture", URL.createObjectURL(file), () => embedPicture(file));
}

function searchSimilar(row) {
  element("query").value = "";
  const entry = state.index.entries[row];
  search(`Similar to ${caption(entry)}`, thumbnail(entry), async () => state.index.row(row));
  element("heading").focus();
}

// === Showing ===

function say(text) {
  element("status").textContent = text;
}

/** The first of a picture's captions, or where it has none, its name. */
function caption(entry) {
  return entry.captions[0] ?? entry.id;
}

function thumbnail(entry) {
  return new URL(`../pictures/${entry.thumbnail}`, import.meta.url).href;
}

function showHits(heading, picture, hits) {
  state.hits = hits;
  state.shown = 0;
  const asked = element("asked");
  if (asked.src.startsWith("blob:") && asked.src !== picture) URL.revokeObjectURL(asked.src);
  if (picture) asked.src = picture;
  else asked.removeAttribute("src");
  asked.hidden = !picture;
  element("heading").textContent = heading;
  element("hits").replaceChildren();
  showMore();
  element("results").hidden = false;
}

function showMore() {
  const next = state.hits.slice(state.shown, state.shown + HITS_AT_A_TIME);
  element("hits").append(...next.map(hitElement));
  state.shown += next.length;
  element("more").hidden = state.shown >= state.hits.length;
}

function hitElement({ row, score }) {
  const entry = state.index.entries[row];
  const words = entry.captions.slice(0, CAPTIONS_SHOWN).join(" · ") || entry.id;
  const image = make("img", { src: thumbnail(entry), alt: caption(entry), loading: "lazy" });
  const frame = make("button", { type: "button", className: "frame", title: "Find similar pictures" }, image);
  frame.addEventListener("click", () => searchSimilar(row));
  const text = make("figcaption", {}, make("span", { className: "caption", dir: "auto", textContent: words, title: words }));
  const item = make("li", {}, make("figure", {}, frame, text));
  item.dataset.row = row;
  if (score !== undefined) {
    item.dataset.score = score;
    text.append(make("span", { className: "score", textContent: `cosine ${score.toFixed(3)}` }));
  }
  return item;
}

/** Some pictures and captions before the first query, evenly spread. */
function showSamples() {
  const { entries } = state.index;
  const spread = (count) =>
    Array.from({ length: Math.min(count, entries.length) }, (_, place) =>
      Math.floor((place * entries.length) / Math.min(count, entries.length)),
    );
  const words = spread(8 * EXAMPLES)
    .map((row) => entries[row].captions[0] ?? "")
    .filter((text) => text && text.length <= LONGEST_EXAMPLE);
  for (const text of [...new Set(words)].slice(0, EXAMPLES)) {
    const button = make("button", { type: "button", textContent: text, dir: "auto" });
    button.addEventListener("click", () => {
      element("query").value = text;
      searchText(text);
    });
    element("examples").append(button);
  }
  element("examples").hidden = !words.length;
  if (!state.searches) {
    showHits("Some of the pictures", null, spread(HITS_AT_A_TIME).map((row) => ({ row })));
    say("Ready. Click a picture to find similar ones.");
  }
}

function showError(error) {
  element("loading").hidden = true;
  say("");
  element("error").textContent = describe(error);
  element("error").hidden = false;
}

function describe(error) {
  if (error instanceof PictureError) return `${error.name} can’t be searched with: ${error.message}. Choose a JPEG, PNG, GIF, BMP or WebP picture.`;
  if (error instanceof RuntimeMissing) return `The runtime @litertjs/core can’t be started: ${error.message}. Run “npm install” in the page’s folder, as its README.txt says, then load the page again.`;
  if (error instanceof FileMissing) return `The page’s folder isn’t complete: ${error.message} can’t be read. Copy the whole folder, or export it again.`;
  return `Something went wrong: ${error.message ?? error}. Load the page again; if it stays, export it again.`;
}

// === Events ===

function takeFile(files) {
  if (files.length) searchFile(files[0]);
}

function listen() {
  element("search").addEventListener("submit", (event) => {
    event.preventDefault();
    searchText(element("query").value);
  });
  element("choose").addEventListener("click", () => element("file").click());
  element("file").addEventListener("change", (event) => {
    takeFile(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
  element("more").addEventListener("click", showMore);
  const dropping = (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("dropping", event.type === "dragover");
    if (event.type === "drop") takeFile(event.dataTransfer.files);
  };
  for (const name of ["dragover", "dragleave", "drop"]) document.addEventListener(name, dropping);
  document.addEventListener("paste", (event) => takeFile(event.clipboardData.files));
}

if (!document.documentElement.dataset.fault) {
  listen();
  state.ready = load();
  state.ready.then(showSamples).catch(showError);
}
