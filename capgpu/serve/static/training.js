// The view of a run's training, refreshed while it goes on.

import { get } from "./api.js";
import { Chart } from "./chart.js";
import { $, duration, h } from "./dom.js";

const SECONDS = 2;
/** Seconds of silence after which the page says that nothing is being written. */
const SILENCE = 120;

let chart = null;
let curve = null;
let timer = 0;
let signature = "";

const STATES = {
  waiting: "Training has not started",
  training: "Training",
  finished: "Finished",
  stopped: "Stopped early",
  interrupted: "Interrupted",
  failed: "Failed",
};

function tile(term, value, note) {
  return h("div", { class: "tile" }, h("dt", {}, term), h("dd", {}, value, note ? h("small", {}, note) : null));
}

function show() {
  const silent = curve.state === "training" && curve.silent > SILENCE;
  const state = STATES[curve.state];
  const text = silent ? `${state}; nothing written for ${duration(curve.silent)}` : curve.reason ? `${state}: ${curve.reason}` : state;
  if ($("training-state").textContent !== text) $("training-state").textContent = text;
  $("training-state").dataset.state = silent ? "waiting" : curve.state;
  $("training-mark").hidden = curve.state !== "training" || silent;
  const last = curve.training.at(-1);
  $("tiles").replaceChildren(
    tile("Epoch", `${curve.epoch}`, curve.epochs ? `of ${curve.epochs}` : null),
    tile("Step", curve.step.toLocaleString("en"), curve.steps ? `of ${curve.steps.toLocaleString("en")}` : null),
    tile("Training loss", last ? last.loss.toFixed(3) : "–", "nats per word"),
    tile("Best validation loss", curve.best ? curve.best.loss.toFixed(3) : "–", curve.best ? `after epoch ${curve.best.epoch}` : null),
    tile("Speed", curve.tokens_per_second ? Math.round(curve.tokens_per_second).toLocaleString("en") : "–", "words per second"),
    curve.remaining === null
      ? tile("Time", curve.epoch ? duration(curve.seconds) : "–", "in finished epochs")
      : tile("Remaining", duration(curve.remaining), "estimated"),
  );
  chart.show(curve, $("log").checked);
  const losses = new Map();
  for (const [name, line] of [["training", curve.training], ["validation", curve.validation]]) {
    for (const point of line) losses.set(point.epoch, { ...losses.get(point.epoch), [name]: point.loss });
  }
  const now = `${losses.size} ${last?.loss}`;
  if (now === signature) return;
  signature = now;
  const number = (value) => (value === undefined ? "–" : value.toFixed(4));
  $("epochs").tBodies[0].replaceChildren(
    ...[...losses].map(([epoch, row]) =>
      h("tr", epoch === curve.best?.epoch ? { class: "best-row" } : {}, h("th", { scope: "row" }, `${epoch}`), h("td", {}, number(row.training)), h("td", {}, number(row.validation))),
    ),
  );
}

async function refresh() {
  clearTimeout(timer);
  try {
    curve = await get("/api/curve");
    show();
  } catch {
    // the notice about the connection says it
  }
  const going = curve === null || curve.state === "training" || curve.state === "waiting" || curve.state === "interrupted";
  timer = setTimeout(refresh, 1000 * (document.hidden ? 15 : going ? SECONDS : 10));
}

export function setUpTraining() {
  chart = new Chart($("chart"), $("chart-readout"));
  $("log").addEventListener("change", () => curve && show());
  document.addEventListener("visibilitychange", () => !document.hidden && refresh());
  refresh();
}

export const openTraining = () => chart.draw();
