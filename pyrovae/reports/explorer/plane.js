// The plane through latent space: the test data, and a cross to drag.

import { cleared, colour } from "./pictures.js";

// Seven colours of Okabe and Ito, and three of Tol; each class is also written as a number.
const LIGHT = ["#0072b2", "#d55e00", "#007a59", "#a34d87", "#946000", "#2b7bba", "#5b5b00", "#882255", "#332288", "#404040"];
const DARK = ["#56b4e9", "#ff9a56", "#2fcf9f", "#e59ac6", "#e69f00", "#9ad4ff", "#f0e442", "#ff8fb3", "#b3a8ff", "#d0d0d0"];
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const MARGIN = 26;

// `moved(u, v)` is called with each new place of the cross.
export function plane(canvas, about, moved) {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const reach = [0, 1].map((axis) => range(about, axis));
  let size = { width: 1, height: 1 }, at = [0, 0], ends = {};
  const across = (u) => MARGIN + (u - reach[0][0]) / (reach[0][1] - reach[0][0]) * (size.width - 2 * MARGIN);
  const down = (v) => size.height - MARGIN - (v - reach[1][0]) / (reach[1][1] - reach[1][0]) * (size.height - 2 * MARGIN);

  function draw() {
    const { context, width, height } = cleared(canvas);
    size = { width, height };
    const colours = dark.matches ? DARK : LIGHT;
    context.font = "10px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    about.points.forEach(([u, v], i) => {
      const label = about.labels ? about.labels[i] : null;
      context.fillStyle = colours[(label ?? 0) % colours.length];
      if (label === null) context.fillRect(across(u) - 1.5, down(v) - 1.5, 3, 3);
      else context.fillText(String(label), across(u), down(v));
    });
    ticks(context);
    for (const [name, [u, v]] of Object.entries(ends)) {
      context.font = "bold 13px system-ui, sans-serif";
      ring(context, across(u), down(v), 9);
      context.fillStyle = colour("--ink");
      context.fillText(name, across(u), down(v));
    }
    cross(context, across(at[0]), down(at[1]));
  }

  function ticks(context) {
    context.fillStyle = colour("--quiet");
    context.font = "11px system-ui, sans-serif";
    for (const axis of [0, 1]) {
      for (const value of rounded(...reach[axis])) {
        if (axis === 0) context.fillText(String(value), across(value), size.height - 9);
        else context.fillText(String(value), 12, down(value));
      }
    }
  }

  function ring(context, x, y, radius) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = colour("--card");
    context.fill();
    context.lineWidth = 2;
    context.strokeStyle = colour("--ink");
    context.stroke();
  }

  function cross(context, x, y) {
    for (const [width, name] of [[5, "--card"], [2, "--ink"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour(name);
      context.beginPath();
      context.arc(x, y, 8, 0, 2 * Math.PI);
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 4 * dx, y + 4 * dy);
        context.lineTo(x + 13 * dx, y + 13 * dy);
      }
      context.stroke();
    }
  }

  function pointed(event) {
    const box = canvas.getBoundingClientRect();
    const along = ([low, high], share) => low + (high - low) * Math.min(Math.max(share, 0), 1);
    const u = along(reach[0], (event.clientX - box.left - MARGIN) / (box.width - 2 * MARGIN));
    const v = along(reach[1], 1 - (event.clientY - box.top - MARGIN) / (box.height - 2 * MARGIN));
    moved(u, v);
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    pointed(event);
  });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons) pointed(event); });
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    const [du, dv] = KEYS[event.key], far = event.shiftKey ? 10 : 1;
    moved(at[0] + du * far * (reach[0][1] - reach[0][0]) / 100, at[1] + dv * far * (reach[1][1] - reach[1][0]) / 100);
  });
  dark.addEventListener("change", draw);
  new ResizeObserver(draw).observe(canvas);
  return {
    put(place) { at = place; draw(); },
    mark(name, place) { ends[name] = place; draw(); },
  };
}

// The range of an axis: the data and a margin; -1 to 1 around an axis without spread.
function range(about, axis) {
  const seen = about.points.map((point) => point[axis]);
  if (about.axes[0].length <= 2 && axis < about.low.length) seen.push(about.low[axis], about.high[axis]);
  const low = Math.min(...seen), high = Math.max(...seen), room = 0.02 * (high - low);
  return high > low ? [low - room, high + room] : [low - 1, high + 1];
}

function rounded(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 2));
  const by = [1, 2, 5].map((factor) => factor * step).find((each) => (high - low) / each <= 6) ?? 10 * step;
  const found = [];
  for (let i = Math.ceil(low / by); i * by <= high; i++) found.push(Number((i * by).toPrecision(6)));
  return found;
}
