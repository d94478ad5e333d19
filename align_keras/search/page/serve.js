// The page of `align-keras serve`: asks the server's JSON API, shows what it finds.

const PAGE = 48;
const TYPING_MS = 300;
const MAX_UPLOAD = 64e6; // as server.py has it

const element = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

// `like` is an image of the index ({id, name}), `file` one that was dropped.
const query = { text: "", plus: [], minus: [], where: "", duplicates: false, like: null, file: null };
const state = { hits: [], index: "", more: false, opened: -1, request: null, timer: 0 };

// === Asking ===

/** The query as the API takes it; a dropped file goes into the body. */
function parameters(offset) {
  const asked = new URLSearchParams();
  if (query.text.trim()) asked.set("text", query.text.trim());
  for (const words of query.plus) asked.append("plus", words);
  for (const words of query.minus) asked.append("minus", words);
  if (query.where.trim()) asked.set("where", query.where.trim());
  if (query.duplicates) asked.set("duplicates", "1");
  if (query.like) asked.set("like", query.like.id);
  if (query.like?.index) asked.set("index", query.like.index);
  if (offset !== undefined) {
    asked.set("k", PAGE);
    asked.set("offset", offset);
  }
  return asked;
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server doesn’t answer. Start it again by “align-keras serve”.");
  }
  const content = await answer.json().catch(() => ({ error: `The server answers ${answer.status}.` }));
  if (!answer.ok) throw new Error(content.error);
  return content;
}

/** Searches anew; of several at once, the last one's hits are shown. */
async function search({ remember = true } = {}) {
  clearTimeout(state.timer);
  showParts();
  if (remember) {
    const asked = parameters().toString();
    const place = asked && `?${asked}`;
    if (!query.file && location.search !== place) history.pushState(null, "", place || "/");
  }
  document.title = query.text.trim() ? `${query.text.trim()} – Find images` : "Find images";
  await load(0);
}

async function load(offset) {
  state.request?.abort();
  const request = (state.request = new AbortController());
  const options = { signal: request.signal };
  if (query.file) Object.assign(options, { method: "POST", body: query.file });
  element("hits").setAttribute("aria-busy", "true");
  if (!offset) say("Searching…");
  try {
    const found = await ask(`/api/search?${parameters(offset)}`, options);
    if (request !== state.request) return;
    element("error").hidden = true;
    showHits(found, offset);
  } catch (error) {
    if (error.name === "AbortError" || request !== state.request) return;
    say("");
    state.more = false;
    element("more").hidden = true;
    if (!offset) clearHits();
    element("error").textContent = error.message;
    element("error").hidden = false;
  } finally {
    if (request === state.request) {
      state.request = null;
      element("hits").setAttribute("aria-busy", "false");
    }
  }
}

// === Showing ===

function say(text) {
  element("status").textContent = text;
}

const nameOf = (hit) => hit.columns.name || hit.path.split(/[\\/]/).pop();
const titleOf = (hit) => hit.captions[0] || nameOf(hit);

function clearHits() {
  element("hits").replaceChildren();
  element("none").hidden = true;
  state.hits = [];
}

function showHits({ hits, more, seconds, index }, offset) {
  const list = element("hits");
  if (!offset) clearHits();
  state.index = index;
  state.hits.push(...hits);
  state.more = more;
  list.append(...hits.map((hit, place) => tile(hit, offset + place)));
  element("more").hidden = !more;
  element("none").hidden = state.hits.length > 0;
  element("none").textContent = query.where.trim() ? "No image fulfills the filter." : "The index has no image.";
  const count = `${more ? "first " : ""}${state.hits.length.toLocaleString("en")} image${state.hits.length === 1 ? "" : "s"}`;
  const isRanked = state.hits.some((hit) => hit.score !== null);
  say(isRanked ? `Best matches first: ${count}, ${seconds.toFixed(2)} s` : `Latest first: ${count}`);
}

function tile(hit, place) {
  const title = titleOf(hit);
  const image = make("img", { src: hit.thumbnail, alt: title, loading: "lazy", decoding: "async" });
  const frame = make("button", { type: "button", className: "frame", title: "Open" }, image);
  frame.addEventListener("click", () => view(place));
  const like = make("button", { type: "button", className: "like", textContent: "More like this" });
  like.addEventListener("click", () => searchLike(hit));
  const text = make("figcaption", {}, make("span", { className: "caption", dir: "auto", textContent: title, title: hit.path }));
  if (hit.score !== null) {
    const score = `${hit.relevance} match, ${hit.score.toFixed(3)}`;
    text.append(make("span", { className: `score match ${hit.relevance}`, textContent: score }));
  }
  const item = make("li", {}, make("figure", {}, frame, text), like);
  Object.assign(item.dataset, { id: hit.id, score: hit.score });
  if (hit.duplicates.length) {
    const copies = make("span", { className: "copies", textContent: `+${hit.duplicates.length}` });
    copies.title = `Near-duplicates:\n${hit.duplicates.join("\n")}`;
    item.append(copies);
  }
  return item;
}

/** The parts of the query besides the words in the box, each with a way to drop it. */
function showParts() {
  const parts = [];
  const drop = (remove) => () => {
    remove();
    search();
    element("query").focus();
  };
  if (query.like) {
    const thumbnail = make("img", { src: `/thumbnail/${query.like.id}${query.like.index ? `?index=${query.like.index}` : ""}`, alt: "" });
    parts.push(chip(`like ${query.like.name}`, "image", drop(() => (query.like = null)), thumbnail));
  }
  if (query.file) {
    state.shown = state.shown?.file === query.file ? state.shown : shownFile(query.file);
    const thumbnail = make("img", { src: state.shown.address, alt: "" });
    thumbnail.addEventListener("error", () => thumbnail.remove()); // HEIC, for one
    parts.push(chip(query.file.name || "your image", "image", drop(() => (query.file = null)), thumbnail));
  }
  for (const [kind, sign] of [["plus", "+"], ["minus", "−"]]) {
    for (const words of query[kind]) {
      const remove = () => (query[kind] = query[kind].filter((other) => other !== words));
      parts.push(chip(`${sign} ${words}`, kind, drop(remove)));
    }
  }
  if (query.where.trim() && element("filter").hidden) {
    parts.push(chip(query.where.trim(), "where", drop(() => setWhere(""))));
  }
  element("parts").replaceChildren(...parts);
  element("parts").hidden = !parts.length;
}

function shownFile(file) {
  if (state.shown) URL.revokeObjectURL(state.shown.address);
  return { file, address: URL.createObjectURL(file) };
}

function chip(text, className, remove, ...before) {
  const button = make("button", { type: "button", textContent: "×", title: "Remove" });
  button.setAttribute("aria-label", `Remove ${text}`);
  button.addEventListener("click", remove);
  return make("li", { className }, ...before, make("span", { textContent: text, title: text, dir: "auto" }), button);
}

// === The viewer ===

function view(place) {
  const hit = state.hits[place];
  if (!hit) return;
  state.opened = place;
  element("name").textContent = nameOf(hit);
  const large = element("large");
  large.hidden = false;
  element("gone").hidden = true;
  large.alt = titleOf(hit);
  large.src = hit.image;
  element("original").href = hit.image;
  element("captions").textContent = hit.captions.join(" · ");
  const rows = [["path", hit.path], ...Object.entries(hit.columns).filter(([name]) => !["path", "name"].includes(name))];
  if (hit.score !== null) rows.push(["match", `${hit.relevance}, ${hit.score.toFixed(4)}`]);
  if (hit.duplicates.length) rows.push(["near-duplicates", hit.duplicates.join("\n")]);
  const cells = rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value, dir: "auto" })]);
  element("columns-of-hit").replaceChildren(...cells);
  element("previous").disabled = place === 0;
  element("next").disabled = place + 1 >= state.hits.length && !state.more;
  element("copy").textContent = "Copy its path";
  if (!element("viewer").open) element("viewer").showModal();
}

async function step(by) {
  const place = state.opened + by;
  if (place >= state.hits.length && state.more) await load(state.hits.length);
  view(place);
}

async function sayWhyGone() {
  const hit = state.hits[state.opened];
  element("large").hidden = true;
  element("gone").hidden = false;
  const why = await ask(hit.image).catch((error) => error);
  element("gone").textContent = why?.message || "This image can’t be shown.";
}

// === Changing the query ===

function searchLike(hit) {
  Object.assign(query, { like: { id: hit.id, name: nameOf(hit), index: state.index }, file: null, text: "", plus: [], minus: [] });
  element("query").value = "";
  element("viewer").close();
  search();
  scrollTo({ top: 0 });
}

function searchFile(files) {
  const file = [...files].find((one) => one.type.startsWith("image/") || /\.(hei[cf]|avif)$/i.test(one.name)) ?? files[0];
  if (!file) return;
  if (file.size > MAX_UPLOAD) {
    element("error").textContent = `${file.name} has more than ${MAX_UPLOAD / 1e6} MB; choose a smaller image.`;
    element("error").hidden = false;
    return;
  }
  // An image begins a new search. Words can be added to it afterwards.
  Object.assign(query, { file, like: null, text: "", plus: [], minus: [] });
  element("query").value = "";
  search();
  scrollTo({ top: 0 });
}

function addWords(kind) {
  const words = element("words").value.trim();
  if (words && !query[kind].includes(words)) query[kind].push(words);
  element("words").value = "";
  if (words) search();
  else element("words").focus();
}

function setWhere(text) {
  query.where = element("where").value = text;
}

function showFilter(isShown) {
  element("filter").hidden = !isShown;
  element("filtering").setAttribute("aria-expanded", isShown);
  showParts();
}

/** Takes the query from the page's address, which is a bookmark of it. */
function readAddress() {
  const asked = new URLSearchParams(location.search);
  const like = Number(asked.get("like"));
  Object.assign(query, {
    text: asked.get("text") ?? "",
    plus: asked.getAll("plus"),
    minus: asked.getAll("minus"),
    duplicates: asked.get("duplicates") === "1",
    like: like ? { id: like, name: query.like?.id === like ? query.like.name : `image ${like}`, index: asked.get("index") } : null,
    file: null,
  });
  element("query").value = query.text;
  element("duplicates").checked = query.duplicates;
  setWhere(asked.get("where") ?? "");
}

// === Keys ===

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input:not([type=checkbox])");
  if (element("viewer").open) {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else if (event.key === "s") searchLike(state.hits[state.opened]);
    return;
  }
  if (event.key === "/" && !typing) {
    event.preventDefault();
    element("query").select();
  } else if (event.key === "ArrowDown" && event.target === element("query")) {
    event.preventDefault();
    frames()[0]?.focus();
  } else if (!typing) {
    onGridKey(event);
  }
}

const frames = () => [...document.querySelectorAll("#hits .frame")];

function onGridKey(event) {
  const all = frames();
  const item = event.target.closest("#hits li");
  const at = item ? [...item.parentNode.children].indexOf(item) : -1;
  if (at < 0) return;
  if (event.key === "s") {
    searchLike(state.hits[at]);
    return;
  }
  const columns = all.filter((one) => one.offsetTop === all[0].offsetTop && one.getBoundingClientRect().top === all[0].getBoundingClientRect().top).length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (!by) return;
  event.preventDefault();
  if (at + by < 0) element("query").focus();
  else all[Math.min(at + by, all.length - 1)].focus();
}

// === Events ===

function listen() {
  element("search").addEventListener("submit", (event) => {
    event.preventDefault();
    query.text = element("query").value;
    query.where = element("where").value;
    search();
  });
  element("query").addEventListener("input", () => {
    query.text = element("query").value;
    clearTimeout(state.timer);
    state.timer = setTimeout(search, TYPING_MS);
  });
  for (const kind of ["plus", "minus"]) element(kind).addEventListener("click", () => addWords(kind));
  element("words").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    addWords("plus");
  });
  element("filtering").addEventListener("click", () => {
    showFilter(element("filter").hidden);
    if (!element("filter").hidden) element("where").focus();
  });
  element("duplicates").addEventListener("change", (event) => {
    query.duplicates = event.target.checked;
    search();
  });
  element("choose").addEventListener("click", () => element("file").click());
  element("file").addEventListener("change", (event) => {
    searchFile(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
  const dropping = (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("dropping", event.type === "dragover");
    if (event.type === "drop") searchFile(event.dataTransfer.files);
  };
  for (const name of ["dragover", "dragleave", "drop"]) document.addEventListener(name, dropping);
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) searchFile(event.clipboardData.files);
  });
  const more = () => state.more && !state.request && load(state.hits.length);
  element("more").addEventListener("click", more);
  new IntersectionObserver((entries) => entries.some((one) => one.isIntersecting) && more(), { rootMargin: "600px" }).observe(element("more"));
  listenToViewer();
  document.addEventListener("keydown", onKey);
  addEventListener("popstate", () => {
    readAddress();
    search({ remember: false });
  });
}

function listenToViewer() {
  element("previous").addEventListener("click", () => step(-1));
  element("next").addEventListener("click", () => step(1));
  element("close").addEventListener("click", () => element("viewer").close());
  element("similar").addEventListener("click", () => searchLike(state.hits[state.opened]));
  element("large").addEventListener("error", sayWhyGone);
  element("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(state.hits[state.opened].path);
    element("copy").textContent = "Copied";
  });
  element("viewer").addEventListener("click", (event) => {
    if (event.target === element("viewer")) element("viewer").close();
  });
  element("viewer").addEventListener("close", () => frames()[state.opened]?.focus());
}

async function showAbout() {
  const about = await ask("/api/about");
  const count = `${about.images.toLocaleString("en")} image${about.images === 1 ? "" : "s"}`;
  element("about").textContent = `${count}, searched by this computer.`;
  for (const name of Object.keys(about.columns)) {
    const button = make("button", { type: "button", textContent: name, title: `${about.columns[name]}: insert it` });
    button.addEventListener("click", () => {
      const field = element("where");
      field.setRangeText(/^\w+$/.test(name) ? `${name} ` : `"${name.replaceAll('"', '""')}" `, field.selectionStart, field.selectionEnd, "end");
      field.focus();
    });
    element("columns").append(button);
  }
}

listen();
readAddress();
// On a phone it would open the keyboard.
if (matchMedia("(hover: hover)").matches) element("query").focus();
showAbout().catch((error) => say(error.message));
search({ remember: false });
