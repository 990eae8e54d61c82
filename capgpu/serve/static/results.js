// The list of pictures with their captions.

import { ApiError, caption } from "./api.js";
import { Attended, place } from "./attention.js";
import { $, bar, count, debounced, duration, h, percent } from "./dom.js";

const MEGA = 1e6;
/** Requests that this page has in progress at a time. */
const PARALLEL = 6;

const mega = (bytes) => `${(bytes / MEGA).toFixed(1)} MB`;

function announce(text) {
  $("caption-status").textContent = text;
}

/** The sentence, and each word with its probability; those with attention show it over the picture. */
function describe(entry, attended, grid) {
  const cell = (text, probability, weights, kind, title) => {
    const parts = [
      h("span", { class: "word" }, text),
      bar(probability),
      h("span", { class: "value" }, percent(probability)),
    ];
    if (!grid || !weights) return h("li", { class: kind, title }, ...parts);
    const show = () => attended.show(weights, grid);
    const hide = () => attended.hide();
    const button = h(
      "button",
      { type: "button", class: "look", tabindex: "-1", onfocus: show, onblur: hide, onclick: show },
      ...parts,
      h("span", { class: "hidden" }, `looked at: ${place(weights, grid.side)}`),
    );
    return h("li", { class: kind, title, onpointerenter: show, onpointerleave: hide }, button);
  };
  const words = entry.words.map((word) => cell(word.text, word.probability, word.attention));
  if (entry.end !== null) {
    words.push(cell("end", entry.end, entry.end_attention, "end", "The sentence ends here"));
  }
  const list = h("ol", { class: "words", "aria-label": "Words with their probabilities" }, ...words);
  const buttons = [...list.querySelectorAll("button")];
  if (!buttons.length) return [h("p", { class: "sentence" }, entry.text || "(no words)"), list];
  buttons[0].tabIndex = 0; // one stop of Tab; arrow keys move between the words
  list.addEventListener("keydown", (event) => {
    const now = buttons.indexOf(document.activeElement);
    const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (event.key === "Escape") attended.hide();
    if (next === undefined || !buttons[next]) return;
    event.preventDefault();
    buttons.forEach((button, i) => (button.tabIndex = i === next ? 0 : -1));
    buttons[next].focus();
  });
  return [
    h("p", { class: "sentence" }, entry.text || "(no words)"),
    list,
    h("p", { class: "hint look-hint" }, "Point at a word, or move to it by keyboard: the picture stays light where the model looked."),
  ];
}

/** A picture with its captions, as an item of the list. */
class Result {
  constructor(picture, name, remove) {
    this.picture = picture;
    this.name = name;
    this.url = URL.createObjectURL(picture);
    this.controller = null;
    this.timing = h("span", { class: "hint" });
    this.body = h("div", { class: "result-body" });
    const button = h(
      "button",
      { type: "button", class: "quiet", "aria-label": `Remove ${name}`, onclick: () => remove(this) },
      "Remove",
    );
    const image = h("img", { src: this.url, alt: name });
    image.addEventListener("error", () => image.replaceWith(h("span", { class: "hint" }, "No preview")));
    this.attended = new Attended(image);
    this.item = h(
      "li",
      { class: "card result", "aria-label": name },
      h("div", { class: "frame" }, this.attended.element),
      h(
        "div",
        { class: "result-main" },
        h("div", { class: "result-head" }, h("h3", { title: name }, name), this.timing, button),
        this.body,
      ),
    );
  }

  /** Caption the picture with these settings, in place of a request that may be in progress. */
  async request(settings, maxBytes, grid) {
    this.controller?.abort();
    this.controller = new AbortController();
    this.item.classList.add("busy");
    if (!this.body.childElementCount) this.body.append(h("p", { class: "hint" }, "Writing captions …"));
    try {
      if (this.picture.size > maxBytes) {
        throw new ApiError(413, `The picture file is too large: ${mega(this.picture.size)} of at most ${mega(maxBytes)}.`);
      }
      this.show(await caption(this.picture, settings, this.controller.signal), grid);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.timing.textContent = "";
      this.body.replaceChildren(h("p", { class: "notice error" }, error.message));
      announce(`${this.name}: ${error.message}`);
    }
    this.item.classList.remove("busy");
  }

  show({ captions, timing }, grid) {
    this.timing.textContent = duration(timing.computed) + (timing.batch > 1 ? `, ${timing.batch} pictures together` : "");
    const detail = h("div", { class: "detail" });
    const choose = (index) => {
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
      this.attended.hide();
      detail.replaceChildren(...describe(captions[index], this.attended, grid));
    };
    const buttons = captions.map((entry, i) =>
      h(
        "button",
        { type: "button", onclick: () => choose(i) },
        h("span", { class: "rank" }, `${i + 1}`),
        h("span", { class: "text" }, entry.text || "(no words)"),
        bar(entry.probability),
        h("span", { class: "value" }, percent(entry.probability)),
      ),
    );
    const items = buttons.map((button) => h("li", {}, button));
    this.body.replaceChildren(detail, h("ol", { class: "beams", "aria-label": "Captions, the most probable first" }, ...items));
    choose(0);
    announce(`${this.name}: ${captions[0].text || "no words"}, probability ${percent(captions[0].probability)}.`);
  }

  close() {
    this.controller?.abort();
    URL.revokeObjectURL(this.url);
    this.item.remove();
  }
}

/** All pictures of the page; `settings()`, `maxBytes()` and `grid()` return what is in force when one is captioned. */
export class Results {
  constructor(settings, maxBytes, grid) {
    this.settings = settings;
    this.maxBytes = maxBytes;
    this.grid = grid;
    this.all = new Set();
    this.waiting = [];
    this.active = 0;
    /** Caption all pictures again, once the settings have stopped changing. */
    this.again = debounced(150, () => this.all.forEach((result) => this.schedule(result)));
    $("clear").addEventListener("click", () => this.clear());
  }

  /** Add a picture at the top; returns its item. */
  add(picture, name) {
    const result = new Result(picture, name, (removed) => this.remove(removed));
    this.all.add(result);
    $("results").prepend(result.item);
    this.showTools();
    result.item.scrollIntoView({ block: "nearest" });
    this.schedule(result);
    return result.item;
  }

  addFiles(files) {
    const pictures = [...files];
    pictures.forEach((file) => this.add(file, file.name || "Pasted picture"));
    if (pictures.length) announce(`${count(pictures.length, "picture")} added.`);
  }

  schedule(result) {
    if (!this.waiting.includes(result)) this.waiting.push(result);
    this.next();
  }

  next() {
    while (this.active < PARALLEL && this.waiting.length) {
      const result = this.waiting.shift();
      if (!this.all.has(result)) continue;
      this.active += 1;
      result.request(this.settings(), this.maxBytes(), this.grid()).finally(() => {
        this.active -= 1;
        this.next();
      });
    }
  }

  remove(result) {
    const neighbour = result.item.nextElementSibling ?? result.item.previousElementSibling;
    this.all.delete(result);
    result.close();
    this.showTools();
    (neighbour?.querySelector("button") ?? $("choose")).focus();
    announce(`Removed ${result.name}.`);
  }

  clear() {
    this.all.forEach((result) => result.close());
    this.all.clear();
    this.showTools();
    $("choose").focus();
    announce("Removed all pictures.");
  }

  showTools() {
    const any = this.all.size > 0;
    $("empty").hidden = any;
    $("result-tools").hidden = !any;
    $("results-title").textContent = count(this.all.size, "picture");
  }
}
