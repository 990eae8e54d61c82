// The view that captions pictures: where they come from, and how they are captioned.

import { blob, get } from "./api.js";
import { setUpCamera } from "./camera.js";
import { $, h } from "./dom.js";
import { Results } from "./results.js";

const MEGA = 1e6;
const SAMPLES = 8;

let run = null;
let seed = 0;
let results = null;

const method = () => $("settings").elements.method.value;

function settings() {
  return method() === "search"
    ? { beam: $("beam").value }
    : { temperature: $("temperature").value, captions: 5, seed };
}

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
    results.again();
  });
  $("draw").addEventListener("click", () => {
    seed = crypto.getRandomValues(new Uint32Array(1))[0];
    results.again();
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
    results.addFiles(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    location.hash = "#captions";
    results.addFiles(files);
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
  $("samples-note").hidden = false;
  $("samples").replaceChildren(
    ...indices.map((index) => {
      const name = `${split.name} picture ${index}`;
      const button = h(
        "button",
        {
          type: "button",
          "aria-label": `Caption ${name}`,
          onclick: async () => {
            const item = results.add(await blob(address(index)), name);
            item.querySelector("button").focus();
          },
        },
        h("img", { src: address(index), alt: "", loading: "lazy" }),
      );
      return h("li", {}, button);
    }),
  );
}

export function setUpCaptions() {
  results = new Results(
    settings,
    () => run.limits.bytes,
    () => run.model?.grid ?? null,
  );
  $("choose").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => {
    results.addFiles($("files").files);
    $("files").value = "";
  });
  setUpCamera((picture) => results.addFiles([new File([picture], "Camera picture", { type: picture.type })]));
  setUpSettings();
  setUpDropping();
}

/** Show the facts of the run; `now` is its document. */
export function updateCaptions(now) {
  const wasMissing = run?.model_missing;
  run = now;
  const { model } = run;
  const cell = model?.cell === "attention" ? "LSTM with attention" : model?.cell.toUpperCase();
  const layers = model?.layers > 1 ? ` of ${model.layers} layers` : "";
  $("facts").textContent = model
    ? `${run.name} · ${cell}${layers}, ${model.hidden} units · ${model.words.toLocaleString("en")} words · backend ${model.backend}`
    : run.name;
  $("limits").textContent = `At most ${run.limits.bytes / MEGA} MB and ${run.limits.pixels / MEGA} million pixels each. Pictures are not stored.`;
  $("model-missing").hidden = run.model_missing === null;
  $("model-missing").textContent = run.model_missing ?? "";
  $("invitation").textContent = run.model_missing === null ? "Add pictures of your own." : "Pictures are captioned as soon as they can be.";
  if (wasMissing && run.model_missing === null) results.again();
  if (run.model_missing === null) showSamples().catch(() => {}); // samples are an offer: the page works without them
}
