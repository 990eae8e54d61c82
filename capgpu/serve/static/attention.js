// Where a model with attention looked in a picture, as a shade over it.

import { h } from "./dom.js";

/** What lies over parts without weight, as in the sheets that `capgpu caption --attention-sheet` draws. */
const SHADE = [16, 24, 56];
const DEEPEST = 0.82;

/** Left, top, width and height of the square that the model sees of a picture, in its pixels. */
export function seenBox(width, height, fit) {
  if (fit === "stretch") return [0, 0, width, height];
  const side = fit === "crop" ? Math.min(width, height) : Math.max(width, height);
  return [(width - side) / 2, (height - side) / 2, side, side];
}

/** The place of the largest weight, in words. */
export function place(weights, side) {
  const index = weights.indexOf(Math.max(...weights));
  const third = (position) => Math.min(2, Math.floor((3 * (position + 0.5)) / side));
  const row = ["top", "", "bottom"][third(Math.floor(index / side))];
  const column = ["left", "", "right"][third(index % side)];
  return `${row} ${column}`.trim() || "middle";
}

/** A picture that can be shaded by attention. */
export class Attended {
  constructor(image) {
    this.image = image;
    this.canvas = h("canvas", { "aria-hidden": "true", hidden: true });
    this.element = h("div", { class: "attended" }, image, this.canvas);
  }

  /** Shade all but the parts with weight. */
  show(weights, { side, fit }) {
    const { image, canvas } = this;
    if (!image.naturalWidth || !weights) return;
    const cells = h("canvas", { width: side, height: side });
    const largest = Math.max(...weights);
    const shade = (weight) => [...SHADE, Math.round(255 * DEEPEST * (1 - weight / largest))];
    cells.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(weights.flatMap(shade)), side), 0, 0);
    // the picture fills a part of its element, in the middle
    const { clientWidth, clientHeight } = image;
    const scale = Math.min(clientWidth / image.naturalWidth, clientHeight / image.naturalHeight);
    const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
    const dots = devicePixelRatio || 1;
    canvas.width = Math.round(clientWidth * dots);
    canvas.height = Math.round(clientHeight * dots);
    const pen = canvas.getContext("2d");
    pen.scale(dots, dots);
    pen.translate((clientWidth - width) / 2, (clientHeight - height) / 2);
    pen.beginPath();
    pen.rect(0, 0, width, height);
    pen.clip();
    const box = seenBox(width, height, fit);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(cells, ...box);
    // what the model does not see
    pen.beginPath();
    pen.rect(0, 0, width, height);
    pen.rect(...box);
    pen.fillStyle = `rgb(${SHADE.join(" ")} / ${DEEPEST})`;
    pen.fill("evenodd");
    canvas.hidden = false;
  }

  hide() {
    this.canvas.hidden = true;
  }
}
