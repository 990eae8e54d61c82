// The view that captions pictures.

import { ApiError, blob, caption, get } from "./api.js";
import { setUpCamera } from "./camera.js";
import { $, bar, count, debounced, duration, h, percent } from "./dom.js";

const MEGA = 1e6;
const SAMPLES = 8;
/** Requests that this page has in progress at a time. */
const PARALLEL = 6;

let run = null;
let seed = 0;
const results = new Set();
const waiting = [];
let active = 0;

const method = () => $("settings").elements.method.value;

function settings() {
  return method() === "search"
    ? { beam: $("beam").value }
    : { temperature: $("temperature").value, captions: 5, seed };
}

function announce(text) {
  $("caption-status").textContent = text;
}

/** Run the tasks of results, some at a time, in the order in which they were asked for. */
function schedule(result) {
  if (!waiting.includes(result)) waiting.push(result);
  while (active < PARALLEL && waiting.length) {
    active += 1;
    waiting
      .shift()
      .request()
      .finally(() => {
        active -= 1;
        if (waiting.length) schedule(waiting.shift());
      });
  }
}

/** A picture with its captions, as an item of the list. */
class Result {
  constructor(picture, name) {
    this.picture = picture;
    this.name = name;
    this.url = URL.createObjectURL(picture);
    this.chosen = 0;
    this.controller = null;
    const remove = h(
      "button",
      { type: "button", class: "quiet", "aria-label": `Remove ${name}`, onclick: () => this.remove() },
      "Remove",
    );
    this.timing = h("span", { class: "hint" });
    this.body = h("div", { class: "result-body" });
    const image = h("img", { src: this.url, alt: name, onerror: () => image.replaceWith(noPreview()) });
    this.item = h(
      "li",
      { class: "card result", "aria-label": name },
      h("div", { class: "frame" }, image),
      h(
        "div",
        { class: "result-main" },
        h("div", { class: "result-head" }, h("h3", { title: name }, name), this.timing, remove),
        this.body,
      ),
    );
  }

  async request() {
    if (!results.has(this)) return;
    this.controller?.abort();
    const controller = (this.controller = new AbortController());
    this.item.classList.add("busy");
    if (!this.answer) this.body.replaceChildren(h("p", { class: "hint" }, "Writing captions …"));
    try {
      if (this.picture.size > run.limits.bytes) {
        throw new ApiError(413, `The picture file is too large: ${mega(this.picture.size)} of at most ${mega(run.limits.bytes)}.`);
      }
      this.answer = await caption(this.picture, settings(), controller.signal);
      this.chosen = 0;
      this.show();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.answer = null;
      this.timing.textContent = "";
      this.body.replaceChildren(h("p", { class: "notice error" }, error.message));
      announce(`${this.name}: ${error.message}`);
    }
    this.item.classList.remove("busy");
  }

  show() {
    const { captions, timing } = this.answer;
    const together = timing.batch > 1 ? `, ${timing.batch} pictures together` : "";
    this.timing.textContent = `${duration(timing.computed)}${together}`;
    this.buttons = captions.map((entry, i) =>
      h(
        "button",
        { type: "button", "aria-pressed": String(i === this.chosen), onclick: () => this.choose(i) },
        h("span", { class: "rank" }, `${i + 1}`),
        h("span", { class: "text" }, entry.text || "(no words)"),
        bar(entry.probability),
        h("span", { class: "value" }, percent(entry.probability)),
      ),
    );
    this.detail = h("div", { class: "detail" });
    const label = method() === "search" ? "Captions, the most probable first" : "Drawn captions, the most probable first";
    const beams = h("ol", { class: "beams", "aria-label": label }, ...this.buttons.map((button) => h("li", {}, button)));
    this.body.replaceChildren(this.detail, beams);
    this.choose(this.chosen);
    const best = captions[0];
    if (best) announce(`${this.name}: ${best.text || "no words"}, probability ${percent(best.probability)}.`);
  }

  choose(index) {
    this.chosen = index;
    this.buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
    const entry = this.answer.captions[index];
    if (entry) this.detail.replaceChildren(...describe(entry));
  }

  remove() {
    const next = this.item.nextElementSibling ?? this.item.previousElementSibling;
    this.controller?.abort();
    results.delete(this);
    URL.revokeObjectURL(this.url);
    this.item.remove();
    (next?.querySelector("button") ?? $("choose")).focus();
    announce(`Removed ${this.name}.`);
    showList();
  }
}

const mega = (bytes) => `${(bytes / MEGA).toFixed(1)} MB`;

const noPreview = () => h("span", { class: "hint" }, "No preview");

/** The sentence, and each word with its probability. */
function describe(entry) {
  const cell = (text, probability, kind, title) =>
    h(
      "li",
      { class: kind, title },
      h("span", { class: "word" }, text),
      bar(probability),
      h("span", { class: "value" }, percent(probability)),
    );
  const words = entry.words.map((word) => cell(word.text, word.probability, null));
  if (entry.end !== null) words.push(cell("end", entry.end, "end", "The sentence ends here"));
  return [
    h("p", { class: "sentence" }, entry.text || "(no words)"),
    h("ol", { class: "words", "aria-label": "Words with their probabilities" }, ...words),
  ];
}

function showList() {
  const any = results.size > 0;
  $("empty").hidden = any;
  $("result-tools").hidden = !any;
  $("results-title").textContent = count(results.size, "picture");
}

function add(picture, name) {
  const result = new Result(picture, name);
  results.add(result);
  $("results").prepend(result.item);
  showList();
  result.item.scrollIntoView({ block: "nearest" });
  schedule(result);
  return result;
}

function addFiles(files) {
  const pictures = [...files];
  pictures.forEach((file) => add(file, file.name || "Pasted picture"));
  if (pictures.length) announce(`${count(pictures.length, "picture")} added.`);
}

const again = debounced(150, () => results.forEach(schedule));

function showSettings() {
  const now = method();
  for (const element of $("settings").querySelectorAll("[data-method]")) {
    element.classList.toggle("unused", element.dataset.method !== now);
  }
  $("draw").disabled = now !== "sample";
  $("beam-value").textContent = $("beam").value;
  $("temperature-value").textContent = Number($("temperature").value).toFixed(1);
}

function choose(value) {
  for (const input of $("settings").elements.method) input.checked = input.value === value;
}

function setUpSettings() {
  $("settings").addEventListener("submit", (event) => event.preventDefault());
  $("settings").addEventListener("input", (event) => {
    // a slider that is moved selects what it belongs to
    const owner = event.target.closest("[data-method]");
    if (owner) choose(owner.dataset.method);
    showSettings();
    again();
  });
  $("draw").addEventListener("click", () => {
    seed = crypto.getRandomValues(new Uint32Array(1))[0];
    again();
  });
  showSettings();
}

function setUpDropping() {
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0;
  const mark = () => $("drop").classList.toggle("over", depth > 0);
  addEventListener("dragenter", (event) => {
    if (!carriesFiles(event)) return;
    depth += 1;
    mark();
  });
  addEventListener("dragleave", (event) => {
    if (!carriesFiles(event)) return;
    depth = Math.max(0, depth - 1);
    mark();
  });
  addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    mark();
    location.hash = "#captions";
    addFiles(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    location.hash = "#captions";
    addFiles(files);
  });
}

/** Offer pictures of the data set, evenly spaced. */
async function showSamples() {
  const split = run.splits.find((entry) => entry.name === "test") ?? run.splits[0];
  if (!split || $("samples").childElementCount) return;
  const every = Math.max(1, Math.floor(split.pictures / SAMPLES));
  const indices = Array.from({ length: Math.min(SAMPLES, split.pictures) }, (_, i) => i * every);
  const first = await get("/api/gallery", { split: split.name, order: "index", limit: 1 });
  if (first.state === "computing") {
    setTimeout(showSamples, 500);
    return;
  }
  if (!first.items[0]?.picture) return;
  const address = (index) => first.items[0].picture.replace(/\/\d+\/picture$/, `/${index}/picture`);
  $("samples").replaceChildren(
    ...indices.map((index) => {
      const name = `${split.name} picture ${index}`;
      const button = h(
        "button",
        {
          type: "button",
          "aria-label": `Caption ${name}`,
          onclick: async () => {
            const result = add(await blob(address(index)), name);
            result.item.querySelector("button").focus();
          },
        },
        h("img", { src: address(index), alt: "", loading: "lazy" }),
      );
      return h("li", {}, button);
    }),
  );
}

export function setUpCaptions() {
  $("choose").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => {
    addFiles($("files").files);
    $("files").value = "";
  });
  $("clear").addEventListener("click", () => {
    [...results].forEach((result) => result.remove());
    $("choose").focus();
  });
  setUpCamera((picture) => addFiles([new File([picture], "Camera picture", { type: picture.type })]));
  setUpSettings();
  setUpDropping();
}

/** Show the facts of the run; `now` is its document. */
export function updateCaptions(now) {
  const wasMissing = run?.model_missing;
  run = now;
  const { model } = run;
  $("facts").textContent = model
    ? `${run.name} · ${model.cell.toUpperCase()}, ${model.hidden} units · ${model.words.toLocaleString("en")} words · backend ${model.backend}`
    : run.name;
  $("limits").textContent = `At most ${run.limits.bytes / MEGA} MB and ${run.limits.pixels / MEGA} million pixels each. Pictures are not stored.`;
  $("model-missing").hidden = run.model_missing === null;
  $("model-missing").textContent = run.model_missing ?? "";
  if (wasMissing && run.model_missing === null) again();
  if (model) showSamples().catch(() => {}); // samples are an offer: the page works without them
}
