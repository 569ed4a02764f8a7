// A point in latent space, moved by the plane, sliders, draws and interpolation; and p(x|z) there.

import { ask, complain, latest } from "./asking.js";
import { show } from "./pictures.js";
import { plane } from "./plane.js";

const SLIDERS = 8; // the others are folded
const $ = (id) => document.getElementById(id);

export function latent(about) {
  let z = about.centre.slice(), ends = {}, mean = null;
  let seed = Math.floor(Math.random() * 1e6);
  const sliders = [];
  const decode = latest("/decode", $("mean"), (answer) => shown(answer.mean, "Mean of p(x|z)"));
  const moves = about.is_real
    ? plane($("plane"), about, (u, v) => {
      const [u0, v0] = along(z);
      go(z.map((value, j) => value + (u - u0) * about.axes[0][j] + (v - v0) * about.axes[1][j]));
    })
    : null;

  function along(where) {
    return about.axes.map((axis) => axis.reduce((sum, a, j) => sum + a * (where[j] - about.centre[j]), 0));
  }

  function shown(values, caption) {
    mean = values;
    show($("mean"), values, about);
    $("mean-caption").textContent = caption;
  }

  function update() {
    const place = z.length <= 4
      ? `z = (${z.map((value) => value.toFixed(2)).join(", ")})`
      : `z at ${along(z).map((value) => value.toFixed(2)).join(" and ")} on the two axes of the plane; ${z.length} dimensions`;
    $("z").textContent = about.is_real ? place
      : `The latents are ${about.kind}, which cannot be moved along straight lines: draw them from the prior.`;
    for (const { j, input, output } of sliders) {
      input.value = z[j];
      output.textContent = z[j].toFixed(2);
    }
    moves?.put(along(z));
  }

  function go(where) {
    z = where;
    update();
    decode({ z });
  }

  function slider(j) {
    const label = document.createElement("label"), name = document.createElement("span");
    const input = document.createElement("input"), output = document.createElement("output");
    label.className = "slider";
    name.textContent = `z[${j}]`;
    input.type = "range";
    input.id = `z${j}`;
    input.min = Math.floor(10 * about.low[j]) / 10;
    input.max = Math.ceil(10 * about.high[j]) / 10;
    input.step = 0.01;
    input.addEventListener("input", () => go(z.map((value, i) => (i === j ? Number(input.value) : value))));
    label.append(name, input, output);
    sliders.push({ j, input, output });
    return label;
  }

  function mark(name) {
    ends[name] = z.slice();
    moves.mark(name, along(z));
    const both = "A" in ends && "B" in ends;
    $("between").disabled = !both;
    $("between").value = name === "A" ? 0 : 1;
    $("between-value").textContent = both ? Number($("between").value).toFixed(2) : `set ${"A" in ends ? "B" : "A"} too`;
  }

  $("draw").addEventListener("click", async () => {
    seed += 1;
    try {
      const answer = await ask("/draw", { seed });
      complain("");
      z = answer.z;
      update();
      shown(answer.mean, `Mean of p(x|z) at a draw of the prior, seed ${seed}`);
    } catch (error) {
      complain(error.message);
    }
  });
  $("origin").addEventListener("click", () => go(about.centre.slice()));
  $("set-a").addEventListener("click", () => mark("A"));
  $("set-b").addEventListener("click", () => mark("B"));
  $("between").addEventListener("input", () => {
    const t = Number($("between").value);
    $("between-value").textContent = t.toFixed(2);
    go(ends.A.map((a, j) => a + t * (ends.B[j] - a)));
  });

  for (const id of ["plane-figure", "origin", "line", "dimensions"]) $(id).hidden = !about.is_real;
  if (about.is_real) {
    const first = Math.min(SLIDERS, Math.max(about.active, 2));
    $("sliders").append(...about.order.slice(0, first).map(slider));
    $("more").hidden = about.order.length <= first;
    $("more-title").textContent = `${about.order.length - first} more dimensions, ${Math.max(about.active - first, 0)} of them active`;
    $("more-sliders").append(...about.order.slice(first).map(slider));
    $("plane-caption").textContent = captions(about);
  }
  window.addEventListener("resize", () => { if (mean !== null && !about.is_image) show($("mean"), mean, about); });
  update();
  if (about.is_real) decode({ z });
  else $("draw").click();
  return { go };
}

function captions(about) {
  const axes = about.centre.length <= 2 ? "The plane of z[0] and z[1]"
    : `The first two principal axes of the codes (${about.shares.map((share) => `${Math.round(100 * share)} %`).join(" and ")} of their variance)`;
  const marks = about.labels === null ? "Each dot is" : "Each number is the class of a datum, at";
  return `${axes}: click, drag, or use the arrow keys. ${marks} the mean of q(z|x); ${about.points.length} test data are shown.`;
}
