// Script of the page of `align-keras serve`. It sends queries to the JSON API of the
// server and shows the hits.

// Number of hits per request.
const PAGE_HITS = 48;
// Delay in milliseconds between the last key press and the search.
const TYPING_DELAY_MS = 300;
// Time in milliseconds after which the page reports that a search is slow.
const SLOW_MS = 4000;
// Bytes. The limit equals `MAX_BODY_BYTES` in local_server.py.
const MAX_UPLOAD_BYTES = 64e6;

const element = (id) => document.getElementById(id);
const createElement = (name, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
};

// `like` is an image of the index ({id, name, index}). `file` is an uploaded image.
// `filters` are the conditions of the values that the user has chosen from the menus.
// `textWeight` is null for the default of the index.
const query = { text: "", plus: [], minus: [], where: "", filters: [], textWeight: null, duplicates: false, like: null, file: null };
// `openHit` is the position of the hit in the viewer. `fileThumbnail` is {file, url}.
// `info` is the response to `/api/index`, and `failedOffset` the offset to request again.
const state = { hits: [], index: "", hasMore: false, openHit: -1, request: null, timer: 0, fileThumbnail: null, info: null, failedOffset: 0 };

// === Requests ===

/** Returns the parameters of the query without its conditions. */
function queryParameters() {
  const parameters = new URLSearchParams();
  if (query.text.trim()) parameters.set("text", query.text.trim());
  for (const words of query.plus) parameters.append("plus", words);
  for (const words of query.minus) parameters.append("minus", words);
  if (query.textWeight !== null && isComposed()) parameters.set("text_weight", query.textWeight);
  if (query.duplicates) parameters.set("duplicates", "1");
  if (query.like) parameters.set("like", query.like.id);
  if (query.like?.index) parameters.set("index", query.like.index);
  return parameters;
}

/** Returns the part of the page's address with the query, or "". */
function queryAddress() {
  const parameters = queryParameters();
  if (query.where.trim()) parameters.set("where", query.where.trim());
  for (const condition of query.filters) parameters.append("filter", condition);
  return parameters.size ? `?${parameters}` : "";
}

/** Returns the parameters of a request. An uploaded file is sent in the body. */
function requestParameters(offset) {
  const parameters = queryParameters();
  const conditions = [query.where.trim(), ...query.filters].filter(Boolean);
  const where = conditions.length > 1 ? conditions.map((condition) => `(${condition})`).join(" and ") : conditions[0];
  if (where) parameters.set("where", where);
  parameters.set("k", PAGE_HITS);
  parameters.set("offset", offset);
  return parameters;
}

/** Returns true for a query with an image and words. */
function isComposed() {
  const hasWords = query.text.trim() || query.plus.length || query.minus.length;
  return Boolean((query.like || query.file) && hasWords);
}

/**
 * Returns the JSON content of a response, or throws an Error with the server's message.
 * The error has `isTemporary` if the same request can succeed later.
 */
async function fetchJson(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("The server is not responding. Start it again with “align-keras serve”."), { isTemporary: true });
  }
  const content = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return {};
  });
  if (!response.ok) {
    const message = content.error || `The server returned status ${response.status}.`;
    throw Object.assign(new Error(message), { isTemporary: response.status >= 500 || response.status === 408 });
  }
  return content;
}

/** Runs the query and shows the hits. Cancels a search that is still running. */
async function search({ addToHistory = true } = {}) {
  clearTimeout(state.timer);
  showQueryChips();
  showTextWeight();
  if (addToHistory) {
    const address = queryAddress();
    if (!query.file && location.search !== address) history.pushState(null, "", address || "/");
  }
  document.title = query.text.trim() ? `${query.text.trim()} – Find images` : "Find images";
  await loadHits(0);
}

/** Requests the hits from an offset and adds them to the list. Offset 0 replaces the list. */
async function loadHits(offset) {
  state.request?.abort();
  const request = (state.request = new AbortController());
  const options = { signal: request.signal };
  if (query.file) Object.assign(options, { method: "POST", body: query.file });
  element("hits").setAttribute("aria-busy", "true");
  if (!offset) showStatus("Searching…");
  const slowTimer = setTimeout(() => {
    if (request === state.request) showStatus("Still searching. The server is slow or busy…");
  }, SLOW_MS);
  try {
    const result = await fetchJson(`/api/search?${requestParameters(offset)}`, options);
    // A later search has replaced this one.
    if (request !== state.request) return;
    element("error").hidden = true;
    showHits(result, offset);
    loadIndexInfo();
  } catch (error) {
    if (error.name === "AbortError" || request !== state.request) return;
    showError(error, offset);
  } finally {
    clearTimeout(slowTimer);
    if (request === state.request) {
      state.request = null;
      element("hits").setAttribute("aria-busy", "false");
    }
  }
}

// === Hits ===

function showStatus(text) {
  element("status").textContent = text;
}

/** Shows the error of a search. The hits of an earlier query are removed. */
function showError(error, offset) {
  showStatus("");
  state.hasMore = false;
  state.failedOffset = offset;
  element("load-more").hidden = true;
  if (!offset) clearHits();
  element("error-message").textContent = error.message;
  element("retry").hidden = !error.isTemporary;
  element("error").hidden = false;
  // On a phone, the error can be below the visible part of the page.
  element("error").scrollIntoView({ block: "nearest" });
}

const nameOf = (hit) => hit.columns.name || hit.path.split(/[\\/]/).pop();
const titleOf = (hit) => hit.captions[0] || nameOf(hit);

function clearHits() {
  element("hits").replaceChildren();
  element("no-hits").hidden = true;
  element("advice").hidden = true;
  state.hits = [];
}

function showHits({ hits, has_more: hasMore, advice, seconds, index }, offset) {
  const list = element("hits");
  if (!offset) clearHits();
  state.index = index;
  state.hits.push(...hits);
  state.hasMore = hasMore;
  list.append(...hits.map((hit, position) => hitItem(hit, offset + position)));
  element("load-more").hidden = !hasMore;
  element("no-hits").hidden = state.hits.length > 0;
  element("advice").hidden = !advice;
  element("advice-reason").textContent = advice?.reason ?? "";
  element("advice-command").textContent = advice?.command ?? "";
  const hasFilter = Boolean(query.where.trim() || query.filters.length);
  element("no-hits-message").textContent = hasFilter
    ? "No image fulfills the filter."
    : "The index contains no images. Add some with “align-keras index FOLDER”.";
  element("remove-filter").hidden = !hasFilter;
  const count = `${hasMore ? "first " : ""}${state.hits.length.toLocaleString("en")} image${state.hits.length === 1 ? "" : "s"}`;
  const isRanked = state.hits.some((hit) => hit.score !== null);
  showStatus(isRanked ? `Best matches first: ${count}, ${seconds.toFixed(2)} s` : `Latest first: ${count}`);
}

/** Returns the score of a hit and, if the query has no image, the probability of a match. */
function scoreOf(hit, digits) {
  const score = hit.score.toFixed(digits);
  return hit.relevance === null ? score : `${Math.round(100 * hit.relevance)}% match, ${score}`;
}

/** Returns the list item of a hit. */
function hitItem(hit, position) {
  const title = titleOf(hit);
  const image = createElement("img", { src: hit.thumbnail, alt: title, loading: "lazy", decoding: "async" });
  const frame = createElement("button", { type: "button", className: "frame", title: "Open" }, image);
  frame.addEventListener("click", () => openViewer(position));
  const similarButton = createElement("button", { type: "button", className: "find-similar", textContent: "More like this" });
  similarButton.addEventListener("click", () => searchSimilar(hit));
  const caption = createElement("figcaption", {}, createElement("span", { className: "caption", dir: "auto", textContent: title, title: hit.path }));
  if (hit.score !== null) {
    caption.append(createElement("span", { className: "score", textContent: scoreOf(hit, 3) }));
  }
  const item = createElement("li", {}, createElement("figure", {}, frame, caption), similarButton);
  Object.assign(item.dataset, { id: hit.id, score: hit.score });
  if (hit.duplicates.length) {
    const copies = createElement("span", { className: "copies", textContent: `+${hit.duplicates.length}` });
    copies.title = `Near-duplicates:\n${hit.duplicates.join("\n")}`;
    item.append(copies);
  }
  return item;
}

/** Shows a removable chip for each part of the query except the text in the search box. */
function showQueryChips() {
  const chips = [];
  const searchWithout = (remove) => () => {
    remove();
    search();
    element("query").focus();
  };
  if (query.like) {
    const thumbnail = createElement("img", { src: `/thumbnail/${query.like.id}${query.like.index ? `?index=${query.like.index}` : ""}`, alt: "" });
    chips.push(createChip(`like ${query.like.name}`, "image", searchWithout(() => (query.like = null)), thumbnail));
  }
  if (query.file) {
    const thumbnail = createElement("img", { src: fileThumbnailUrl(query.file), alt: "" });
    // Browsers cannot display all formats that the server can read, for example HEIC.
    thumbnail.addEventListener("error", () => thumbnail.remove());
    chips.push(createChip(query.file.name || "your image", "image", searchWithout(() => (query.file = null)), thumbnail));
  }
  for (const [kind, sign] of [["plus", "+"], ["minus", "−"]]) {
    for (const words of query[kind]) {
      const remove = () => (query[kind] = query[kind].filter((other) => other !== words));
      chips.push(createChip(`${sign} ${words}`, kind, searchWithout(remove)));
    }
  }
  for (const condition of query.filters) {
    const remove = () => setFilters(query.filters.filter((other) => other !== condition));
    chips.push(createChip(labelOfFilter(condition), "filter", searchWithout(remove)));
  }
  if (query.where.trim() && element("filter").hidden) {
    chips.push(createChip(query.where.trim(), "where", searchWithout(() => setWhere(""))));
  }
  element("query-chips").replaceChildren(...chips);
  element("query-chips").hidden = !chips.length;
}

/** Returns a URL of an uploaded file, and releases the URL of the previous file. */
function fileThumbnailUrl(file) {
  if (state.fileThumbnail?.file !== file) {
    if (state.fileThumbnail) URL.revokeObjectURL(state.fileThumbnail.url);
    state.fileThumbnail = { file, url: URL.createObjectURL(file) };
  }
  return state.fileThumbnail.url;
}

function createChip(text, className, remove, ...thumbnails) {
  const button = createElement("button", { type: "button", textContent: "×", title: "Remove" });
  button.setAttribute("aria-label", `Remove ${text}`);
  button.addEventListener("click", remove);
  return createElement("li", { className }, ...thumbnails, createElement("span", { textContent: text, title: text, dir: "auto" }), button);
}

// === Viewer ===

/** Returns a number of bytes in a unit for people, and any other value unchanged. */
function readableSize(value) {
  if (typeof value !== "number") return value;
  return value < 1e6 ? `${(value / 1e3).toFixed(1)} kB` : `${(value / 1e6).toFixed(1)} MB`;
}

/** Shows the hit at a position of the list in the viewer. */
function openViewer(position) {
  const hit = state.hits[position];
  if (!hit) return;
  state.openHit = position;
  element("name").textContent = nameOf(hit);
  const image = element("viewer-image");
  image.hidden = false;
  element("image-error").hidden = true;
  image.alt = titleOf(hit);
  image.src = hit.image;
  element("original").href = hit.image;
  element("captions").textContent = hit.captions.join(" · ");
  const columns = Object.entries(hit.columns).filter(([name]) => !["path", "name"].includes(name));
  const rows = [["path", hit.path], ...columns.map(([name, value]) => [name, name === "size" ? readableSize(value) : value])];
  if (hit.score !== null) rows.push(["score", scoreOf(hit, 4)]);
  if (hit.duplicates.length) rows.push(["near-duplicates", hit.duplicates.join("\n")]);
  const cells = rows.flatMap(([name, value]) => [
    createElement("dt", { textContent: name }),
    createElement("dd", { textContent: value, dir: "auto" }),
  ]);
  element("hit-columns").replaceChildren(...cells);
  element("previous").disabled = position === 0;
  element("next").disabled = position + 1 >= state.hits.length && !state.hasMore;
  element("copy-path").textContent = "Copy path";
  if (!element("viewer").open) element("viewer").showModal();
}

/** Moves the viewer by a number of hits, and loads more hits at the end of the list. */
async function moveViewer(offset) {
  const position = state.openHit + offset;
  if (position >= state.hits.length && state.hasMore) await loadHits(state.hits.length);
  openViewer(position);
}

/** Shows the reason why the image in the viewer cannot be displayed. */
async function showImageError() {
  const hit = state.hits[state.openHit];
  element("viewer-image").hidden = true;
  element("image-error").hidden = false;
  const error = await fetchJson(hit.image).catch((error) => error);
  element("image-error").textContent = error?.message || "This image cannot be displayed.";
}

// === Changes of the query ===

function searchSimilar(hit) {
  Object.assign(query, { like: { id: hit.id, name: nameOf(hit), index: state.index }, file: null, text: "", plus: [], minus: [] });
  element("query").value = "";
  element("viewer").close();
  search();
  scrollTo({ top: 0 });
}

function searchFile(files) {
  const isImage = (file) => file.type.startsWith("image/") || /\.(hei[cf]|avif)$/i.test(file.name);
  const file = [...files].find(isImage) ?? files[0];
  if (!file) return;
  if (file.size > MAX_UPLOAD_BYTES) {
    clearTimeout(state.timer);
    state.request?.abort();
    showError(new Error(`An image must be at most ${MAX_UPLOAD_BYTES / 1e6} MB. ${file.name} is larger. Choose a smaller image.`), 0);
    return;
  }
  // An image starts a new search. The user can add words to it afterwards.
  Object.assign(query, { file, like: null, text: "", plus: [], minus: [] });
  element("query").value = "";
  search();
  scrollTo({ top: 0 });
}

function addWords(kind) {
  const words = element("extra-words").value.trim();
  if (words && !query[kind].includes(words)) query[kind].push(words);
  element("extra-words").value = "";
  if (words) search();
  else element("extra-words").focus();
}

function setWhere(text) {
  query.where = element("where").value = text;
}

/** Sets the conditions of the menus, and shows their values in the menus. */
function setFilters(conditions) {
  query.filters = conditions;
  for (const menu of document.querySelectorAll("#values select")) {
    menu.value = conditions.find((condition) => optionOf(menu, condition)) ?? "";
  }
}

const optionOf = (menu, condition) => [...menu.options].find((option) => option.value === condition);

/** Returns "column: value" for a condition of a menu, or the condition itself. */
function labelOfFilter(condition) {
  for (const menu of document.querySelectorAll("#values select")) {
    const option = optionOf(menu, condition);
    if (option) return `${menu.name}: ${option.title}`;
  }
  return condition;
}

/** Shows the weight of the words if the query has an image and words. */
function showTextWeight() {
  element("weight").hidden = !isComposed();
  const weight = query.textWeight ?? state.info?.text_weight;
  if (weight === undefined) return;
  element("text-weight").value = Math.log2(weight);
  const text = Number(weight.toPrecision(2)).toString();
  element("weight-value").textContent = text;
  element("text-weight").setAttribute("aria-valuetext", text);
}

function showFilter(isVisible) {
  element("filter").hidden = !isVisible;
  element("toggle-filter").setAttribute("aria-expanded", isVisible);
  showQueryChips();
}

/** Sets the query from the address of the page, which can be a bookmark. */
function readAddress() {
  const parameters = new URLSearchParams(location.search);
  const id = Number(parameters.get("like"));
  const name = query.like?.id === id ? query.like.name : `image ${id}`;
  Object.assign(query, {
    text: parameters.get("text") ?? "",
    plus: parameters.getAll("plus"),
    minus: parameters.getAll("minus"),
    textWeight: Number(parameters.get("text_weight")) || null,
    duplicates: parameters.get("duplicates") === "1",
    like: id ? { id, name, index: parameters.get("index") } : null,
    file: null,
  });
  element("query").value = query.text;
  element("duplicates").checked = query.duplicates;
  setWhere(parameters.get("where") ?? "");
  setFilters(parameters.getAll("filter"));
}

// === Keys ===

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input:not([type=checkbox], [type=range])");
  if (element("viewer").open) {
    if (event.key === "ArrowLeft") moveViewer(-1);
    else if (event.key === "ArrowRight") moveViewer(1);
    else if (event.key === "s") searchSimilar(state.hits[state.openHit]);
    return;
  }
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    element("query").select();
  } else if (event.key === "ArrowDown" && event.target === element("query")) {
    event.preventDefault();
    hitFrames()[0]?.focus();
  } else if (!isTyping) {
    onGridKey(event);
  }
}

const hitFrames = () => [...document.querySelectorAll("#hits .frame")];

/** Handles a key while a hit in the list has the focus. */
function onGridKey(event) {
  const frames = hitFrames();
  const item = event.target.closest("#hits li");
  const position = item ? [...item.parentNode.children].indexOf(item) : -1;
  if (position < 0) return;
  if (event.key === "s") {
    searchSimilar(state.hits[position]);
    return;
  }
  const isInFirstRow = (frame) =>
    frame.offsetTop === frames[0].offsetTop && frame.getBoundingClientRect().top === frames[0].getBoundingClientRect().top;
  const columns = frames.filter(isInFirstRow).length;
  const offset = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (!offset) return;
  event.preventDefault();
  if (position + offset < 0) element("query").focus();
  else frames[Math.min(position + offset, frames.length - 1)].focus();
}

// === Events ===

function addListeners() {
  element("search").addEventListener("submit", (event) => {
    event.preventDefault();
    query.text = element("query").value;
    query.where = element("where").value;
    search();
  });
  element("query").addEventListener("input", () => {
    query.text = element("query").value;
    clearTimeout(state.timer);
    state.timer = setTimeout(search, TYPING_DELAY_MS);
  });
  for (const kind of ["plus", "minus"]) element(kind).addEventListener("click", () => addWords(kind));
  element("extra-words").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    addWords("plus");
  });
  element("toggle-filter").addEventListener("click", () => {
    showFilter(element("filter").hidden);
    if (!element("filter").hidden) element("where").focus();
  });
  element("text-weight").addEventListener("input", (event) => {
    query.textWeight = 2 ** event.target.value;
    showTextWeight();
    clearTimeout(state.timer);
    state.timer = setTimeout(search, TYPING_DELAY_MS);
  });
  element("retry").addEventListener("click", () => loadHits(state.failedOffset));
  element("remove-filter").addEventListener("click", () => {
    setWhere("");
    setFilters([]);
    search();
    element("query").focus();
  });
  element("duplicates").addEventListener("change", (event) => {
    query.duplicates = event.target.checked;
    search();
  });
  element("choose-file").addEventListener("click", () => element("file").click());
  element("file").addEventListener("change", (event) => {
    searchFile(event.target.files);
    // Without the reset, choosing the same file again would trigger no event.
    event.target.value = "";
  });
  const onDrag = (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("dropping", event.type === "dragover");
    if (event.type === "drop") searchFile(event.dataTransfer.files);
  };
  for (const name of ["dragover", "dragleave", "drop"]) document.addEventListener(name, onDrag);
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) searchFile(event.clipboardData.files);
  });
  const loadMore = () => state.hasMore && !state.request && loadHits(state.hits.length);
  element("load-more").addEventListener("click", loadMore);
  // Loads more hits before the user has scrolled to the end of the list.
  const onIntersection = (entries) => entries.some((entry) => entry.isIntersecting) && loadMore();
  new IntersectionObserver(onIntersection, { rootMargin: "600px" }).observe(element("load-more"));
  addViewerListeners();
  document.addEventListener("keydown", onKey);
  addEventListener("popstate", () => {
    readAddress();
    search({ addToHistory: false });
  });
}

function addViewerListeners() {
  element("previous").addEventListener("click", () => moveViewer(-1));
  element("next").addEventListener("click", () => moveViewer(1));
  element("close").addEventListener("click", () => element("viewer").close());
  element("viewer-similar").addEventListener("click", () => searchSimilar(state.hits[state.openHit]));
  element("viewer-image").addEventListener("error", showImageError);
  element("copy-path").addEventListener("click", async () => {
    await navigator.clipboard.writeText(state.hits[state.openHit].path);
    element("copy-path").textContent = "Copied";
  });
  element("viewer").addEventListener("click", (event) => {
    if (event.target === element("viewer")) element("viewer").close();
  });
  element("viewer").addEventListener("close", () => hitFrames()[state.openHit]?.focus());
}

/** Requests the description of the index and shows it, unless that has been done. */
async function loadIndexInfo() {
  if (state.info) return;
  state.info = {};
  try {
    state.info = await fetchJson("/api/index");
  } catch {
    // The search reports the error. The next search that succeeds requests it again.
    state.info = null;
    return;
  }
  const { images, columns, values, left_out: leftOut } = state.info;
  element("index-info").textContent = `Searches ${counted(images, "image")}.`;
  showLeftOut(leftOut);
  element("columns").append(...Object.entries(columns).map(([name, kind]) => columnButton(name, kind)));
  element("values").replaceChildren(...Object.entries(values).map(([name, entries]) => valuesMenu(name, entries)));
  element("values").hidden = !element("values").children.length;
  setFilters(query.filters);
  showQueryChips();
  showTextWeight();
}

const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** Shows the number of files without an image in the index, and examples by reason. */
function showLeftOut(reasons) {
  const total = reasons.reduce((sum, { count }) => sum + count, 0);
  element("left-out").hidden = !total;
  element("left-out-count").textContent = `${counted(total, "file")} left out`;
  const entries = reasons.flatMap(({ reason, count, examples }) => {
    const paths = examples.map(({ path, detail }) => createElement("dd", { textContent: detail ? `${path} (${detail})` : path, dir: "auto" }));
    if (count > examples.length) paths.push(createElement("dd", { textContent: `and ${(count - examples.length).toLocaleString("en")} more` }));
    return [createElement("dt", { textContent: `${reason}: ${counted(count, "file")}` }), ...paths];
  });
  element("left-out-reasons").replaceChildren(...entries);
}

/** Returns a button that inserts the name of a column into the condition. */
function columnButton(name, kind) {
  const button = createElement("button", { type: "button", textContent: name, title: `Insert this ${kind} column` });
  button.addEventListener("click", () => {
    const field = element("where");
    field.setRangeText(/^\w+$/.test(name) ? `${name} ` : `"${name.replaceAll('"', '""')}" `, field.selectionStart, field.selectionEnd, "end");
    field.focus();
  });
  return button;
}

/** Returns a labeled menu of the values of a column. */
function valuesMenu(name, entries) {
  const menu = createElement("select", { name }, createElement("option", { value: "", textContent: "any" }));
  for (const { value, count, where } of entries) {
    menu.append(createElement("option", { value: where, title: value, textContent: `${value} (${count.toLocaleString("en")})` }));
  }
  menu.addEventListener("change", () => {
    const conditions = query.filters.filter((condition) => !optionOf(menu, condition));
    if (menu.value) conditions.push(menu.value);
    setFilters(conditions);
    search();
  });
  return createElement("label", { className: "menu" }, createElement("span", { textContent: name }), menu);
}

addListeners();
readAddress();
// On a phone, the focus would open the on-screen keyboard.
if (matchMedia("(hover: hover)").matches) element("query").focus();
loadIndexInfo();
search({ addToHistory: false });
