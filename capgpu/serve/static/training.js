// The view of a run's training, refreshed while it goes on.

import { get } from "./api.js";
import { Chart } from "./chart.js";
import { $, duration, h } from "./dom.js";

const SECONDS = 2;
/** Seconds of silence after which the page says that nothing is being written. */
const SILENCE = 120;

let losses = null;
let rewards = null;
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
  const reward = curve.rewards.at(-1);
  $("tiles").replaceChildren(
    tile("Epoch", `${curve.epoch}`, curve.epochs ? `of ${curve.epochs}` : null),
    tile("Step", curve.step.toLocaleString("en"), curve.steps ? `of ${curve.steps.toLocaleString("en")}` : null),
    reward ? tile("Reward", reward.reward.toFixed(3), "mean of drawn captions") : tile("Training loss", last ? last.loss.toFixed(3) : "–", "nats per word"),
    curve.best_score
      ? tile(`Best ${curve.best_score.name}`, curve.best_score.score.toFixed(3), `after epoch ${curve.best_score.epoch}`)
      : tile("Best validation loss", curve.best ? curve.best.loss.toFixed(3) : "–", curve.best ? `after epoch ${curve.best.epoch}` : null),
    tile("Speed", curve.tokens_per_second ? Math.round(curve.tokens_per_second).toLocaleString("en") : "–", "words per second"),
    curve.remaining === null
      ? tile("Time", curve.epoch ? duration(curve.seconds) : "–", "in finished epochs")
      : tile("Remaining", duration(curve.remaining), "estimated"),
  );
  const lossOf = (points) => points.map((point) => ({ epoch: point.epoch, value: point.loss }));
  const rewardOf = (points) => points.map((point) => ({ epoch: point.epoch, value: point.reward }));
  const training = { name: "training", label: "training loss", legend: "training, mean of an epoch", points: lossOf(curve.training) };
  const validation = { name: "validation", label: "validation loss", legend: "validation", points: lossOf(curve.validation) };
  const drawn = { name: "training", label: "reward", legend: "drawn captions, mean of an epoch", points: rewardOf(curve.rewards) };
  const lossDescription = {
    axis: "nats per word",
    unit: " nats per word",
    epochs: curve.epochs,
    steps: { legend: "training, single minibatches", points: lossOf(curve.training_steps) },
    lines: [training, validation],
    best: curve.best && !curve.best_score ? { epoch: curve.best.epoch, value: curve.best.loss } : null,
  };
  losses.show(lossDescription, $("log").checked);
  const rewarded = curve.rewards.length + curve.reward_steps.length > 0;
  $("reward-card").hidden = !rewarded;
  if (rewarded) {
    const steps = { legend: "drawn captions, single minibatches", points: rewardOf(curve.reward_steps) };
    rewards.show({ axis: "reward", unit: "", epochs: curve.epochs, steps, lines: [drawn], best: null }, false);
  }
  showTable(rewarded ? drawn : training, validation);
}

/** The epochs as a table, made anew only when it changes. */
function showTable(first, second) {
  const rows = new Map();
  for (const line of [first, second]) {
    for (const point of line.points) rows.set(point.epoch, { ...rows.get(point.epoch), [line.label]: point.value });
  }
  const now = `${first.label} ${rows.size} ${first.points.at(-1)?.value}`;
  if (now === signature) return;
  signature = now;
  const best = (curve.best_score ?? curve.best)?.epoch;
  const number = (value) => (value === undefined ? "–" : value.toFixed(4));
  $("first-column").textContent = first.label[0].toUpperCase() + first.label.slice(1);
  $("epochs").tBodies[0].replaceChildren(
    ...[...rows].map(([epoch, row]) =>
      h("tr", epoch === best ? { class: "best-row" } : {}, h("th", { scope: "row" }, `${epoch}`), h("td", {}, number(row[first.label])), h("td", {}, number(row[second.label]))),
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
  losses = new Chart($("chart"), $("chart-readout"));
  rewards = new Chart($("reward-chart"), $("reward-readout"));
  $("log").addEventListener("change", () => curve && show());
  document.addEventListener("visibilitychange", () => !document.hidden && refresh());
  refresh();
}

export const openTraining = () => [losses, rewards].forEach((chart) => chart.draw());
