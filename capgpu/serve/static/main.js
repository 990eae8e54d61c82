// The views of the page, and the facts of the run.

import { get, onConnection } from "./api.js";
import { setUpCaptions, updateCaptions } from "./captions.js";
import { $ } from "./dom.js";
import { openGallery, setUpGallery, updateGallery } from "./gallery.js";
import { openTraining, setUpTraining } from "./training.js";

const OPENED = { captions: () => {}, gallery: openGallery, training: openTraining };
const SECONDS = 3;

function showView(moved) {
  const name = location.hash.slice(1) in OPENED ? location.hash.slice(1) : "captions";
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== `view-${name}`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${$(`${name}-title`).textContent} · capgpu`;
  OPENED[name]();
  if (moved) scrollTo(0, 0);
}

async function refresh() {
  let waits = true;
  try {
    const run = await get("/api/run");
    $("version").textContent = `capgpu ${run.version} · data ${run.data}`;
    updateCaptions(run);
    updateGallery(run);
    waits = run.model_missing !== null;
  } catch {
    // the notice about the connection says it
  }
  setTimeout(refresh, 1000 * (waits ? SECONDS : 30));
}

onConnection((works) => {
  $("connection").hidden = works;
});
setUpCaptions();
setUpGallery();
setUpTraining();
addEventListener("hashchange", () => {
  if (location.hash !== "#content") showView(true);
});
showView(false);
await refresh();
