// The view of a split: the model's captions beside the references.

import { get } from "./api.js";
import { $, count, debounced, h } from "./dom.js";

const PAGE = 48;
const WORD = /[\p{L}\p{M}\p{N}][\p{L}\p{M}\p{N}'’-]*/gu;
const MARKS = { right: ["✓", "word for word"], near: ["≈", "other variant"], wrong: ["✗", "other words"] };

let run = null;
let shown = 0;
let controller = null;

const chosenMatch = () => document.querySelector("#match input:checked").value;

function values() {
  return { split: $("split").value, order: $("order").value, match: chosenMatch(), query: $("query").value.trim() };
}

/** The words of a caption, those that no reference contains marked. */
function compared(caption, references) {
  const known = new Set(references.flatMap((text) => text.toLowerCase().match(WORD) ?? []));
  return caption.split(new RegExp(`(${WORD.source})`, "u")).map((part, i) => {
    const foreign = i % 2 === 1 && references.length > 0 && !known.has(part.toLowerCase());
    return foreign ? h("mark", {}, part) : part;
  });
}

function card(item, baseNames) {
  const [sign, meaning] = MARKS[item.match];
  const label = item.match === "wrong" && baseNames ? "wrong" : meaning;
  const picture = item.picture
    ? h("img", { src: item.picture, alt: `Picture ${item.index}`, loading: "lazy" })
    : h("span", { class: "hint" }, `Picture ${item.index}`);
  const references = item.match === "right" ? [] : item.references;
  return h(
    "li",
    { class: `card entry ${item.match}` },
    h("div", { class: "frame" }, picture),
    h(
      "div",
      { class: "entry-body" },
      h(
        "p",
        { class: "entry-mark" },
        h("i", { class: `mark ${item.match}`, "aria-hidden": "true" }, sign),
        h("span", {}, label),
        item.score === null ? null : h("span", { class: "score" }, `score ${item.score.toFixed(2)}`),
      ),
      h("p", { class: "entry-caption" }, ...compared(item.caption || "(no words)", item.references)),
      ...references.map((text) => h("p", { class: "entry-reference" }, h("span", {}, "Reference"), " ", text)),
    ),
  );
}

function showCounts(page) {
  const total = Object.values(page.counts).reduce((sum, number) => sum + number, 0);
  for (const element of $("match").querySelectorAll("[data-count]")) {
    const name = element.dataset.count;
    element.textContent = (name === "all" ? total : (page.counts[name] ?? 0)).toLocaleString("en");
  }
  $("match").querySelector("[data-mark=near]").hidden = !page.base_names;
  $("wrong-label").textContent = page.base_names ? "Wrong" : "Other words";
}

function showNote() {
  const split = run.splits.find((entry) => entry.name === $("split").value);
  $("split-note").textContent = split ? [count(split.pictures, "picture"), split.description].filter(Boolean).join(": ") : "";
}

/** Fetch the next part; from the start if `fresh`. */
async function load(fresh) {
  if (run === null || run.splits_missing !== null || run.model === null) return;
  controller?.abort();
  const mine = (controller = new AbortController());
  const offset = fresh ? 0 : shown;
  let page;
  try {
    page = await get("/api/gallery", { ...values(), offset, limit: PAGE }, mine.signal);
  } catch (error) {
    if (error.name !== "AbortError") $("gallery-status").textContent = error.message;
    return;
  }
  const computing = page.state === "computing";
  $("gallery-progress").hidden = !computing;
  $("match").hidden = computing;
  if (computing) {
    $("gallery-progress").value = page.progress;
    $("gallery-status").textContent = "Captions of this split are being written …";
    $("cards").replaceChildren();
    setTimeout(() => mine === controller && load(true), 400);
    return;
  }
  showCounts(page);
  const cards = page.items.map((item) => card(item, page.base_names));
  if (fresh) $("cards").replaceChildren(...cards);
  else $("cards").append(...cards);
  shown = offset + cards.length;
  const rest = page.found - shown;
  $("more").hidden = rest <= 0;
  $("more").textContent = `Show ${Math.min(rest, PAGE)} more`;
  $("gallery-status").textContent = page.found === 0 ? "No caption or reference has these words." : `${shown.toLocaleString("en")} of ${count(page.found, "picture")} shown. Score: CIDEr relative to that of the best reference.`;
  if (!fresh && cards.length) {
    cards[0].tabIndex = -1;
    cards[0].focus();
  }
}

export function setUpGallery() {
  $("gallery-form").addEventListener("submit", (event) => event.preventDefault());
  $("query").addEventListener("input", debounced(200, () => load(true)));
  for (const name of ["split", "order", "match"]) {
    $(name).addEventListener("change", () => {
      showNote();
      load(true);
    });
  }
  $("more").addEventListener("click", () => load(false));
}

export const openGallery = () => load(true);

export function updateGallery(now) {
  const model = run?.model;
  run = now;
  const missing = run.splits_missing ?? (run.model === null ? run.model_missing : null);
  $("gallery-missing").hidden = missing === null;
  $("gallery-missing").textContent = missing ?? "";
  $("gallery-form").hidden = $("match").hidden = missing !== null;
  if ($("split").childElementCount === 0 && run.splits.length) {
    $("split").append(...run.splits.map((split) => h("option", { value: split.name }, split.name)));
    if (run.splits.some((split) => split.name === "test")) $("split").value = "test";
    showNote();
  }
  if (!model && run.model && !$("view-gallery").hidden) load(true);
}
