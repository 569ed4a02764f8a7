// A datum by its row, or drawn: q(z|x), the reconstruction, and log p(x) with its reliability.

import { ask, complain } from "./asking.js";
import { pad } from "./pad.js";
import { bars, show } from "./pictures.js";

const $ = (id) => document.getElementById(id);

// `send(z)` moves latent space to the mean of q(z|x).
export function datum(about, send) {
  let question = null, found = null, under_way = new AbortController();

  // A new question replaces the one under way, which the server stops computing.
  function replace() {
    under_way.abort();
    under_way = new AbortController();
    return under_way.signal;
  }

  async function look(asked, before = []) {
    question = { ...asked, seed: seed() };
    const signal = replace();
    try {
      const answer = await ask("/encode", question, signal);
      complain("");
      found = { ...answer, notes: [...before, ...answer.notes] };
      draw();
      await estimate();
    } catch (error) {
      if (!signal.aborted) complain(error.message);
    }
  }

  function draw() {
    $("datum").hidden = false;
    const both = [...found.x, ...found.reconstruction];
    show($("x"), found.x, about, both);
    show($("reconstruction"), found.reconstruction, about, both);
    const what = "row" in question ? `Row ${question.row} of the test split` : "Your image";
    const label = found.label === null ? "" : `, class ${found.label}`;
    const notes = found.notes.join("; ");
    $("x-caption").textContent = `${what}${label}, as the model sees it${notes ? `: ${notes}` : ""}`;
    const order = about.order;
    bars($("q"), order.map((j) => [found.loc[j], found.scale[j]]), order.map((j) => `z[${j}]`));
    $("q-caption").textContent = "q(z|x) by dimension, the most active first: bars are the mean, lines one standard deviation on each side";
    $("q-table").replaceChildren(...order.map((j) => row([`z[${j}]`, three(found.loc[j]), three(found.scale[j])])));
  }

  async function estimate() {
    const signal = replace(), asked = { ...question, seed: seed(), ...choices() };
    numbers([["log p(x)", `estimating with ${asked.num_samples.toLocaleString("en")} draws`, "first waiting"]]);
    try {
      const answer = await ask("/evaluate", asked, signal);
      complain("");
      numbers(summary(answer));
    } catch (error) {
      if (signal.aborted) return;
      numbers([["log p(x)", "not estimated", "first"]]);
      complain(error.message);
    }
  }

  function choose(event) {
    event?.preventDefault();
    look({ row: Number($("row").value) });
  }

  $("row").max = about.rows - 1;
  $("row-form").addEventListener("submit", choose);
  $("random").addEventListener("click", () => {
    $("row").value = Math.floor(Math.random() * about.rows);
    choose();
  });
  $("samples").max = about.most_samples;
  $("again").addEventListener("click", estimate);
  $("send").addEventListener("click", () => send(found.loc));
  $("send").hidden = !about.is_real;
  $("own").hidden = !about.takes_drawings;
  if (about.takes_drawings) {
    const use = (notes) => look({ pixels: drawing.grey(), fit: $("fit").checked }, notes);
    const drawing = pad($("pad"), about.shape, use);
    $("use").addEventListener("click", () => use([]));
    $("clear").addEventListener("click", drawing.clear);
    $("file").addEventListener("change", () => {
      const [file] = $("file").files;
      if (file) drawing.load(file).catch((error) => complain(error.message));
    });
  }
  window.addEventListener("resize", () => { if (found !== null) draw(); });
}

function seed() {
  return Number($("seed").value);
}

function choices() {
  return { num_samples: Number($("samples").value), proposal: $("proposal").value };
}

function summary(answer) {
  const { reliability } = answer, unknown = reliability.startsWith("unknown"), many = answer.num_samples > 1;
  const limit = unknown ? "" : ` (${reliability === "reliable" ? "" : "reliable "}below ${answer.threshold.toFixed(2)})`;
  const judged = reliability === "beyond" ? `beyond 1${limit}: log p(x) is only a lower bound` : reliability + limit;
  const few = answer.error_is_known ? "" : ", too few for a reliable error";
  return [
    ["log p(x)", `${two(answer.log_evidence)}${many ? ` ± ${error(answer.standard_error)}` : ""} nats`, "first"],
    ["k-hat", unknown ? reliability : `${two(answer.khat)}, ${judged}`],
    ["ELBO", `${two(answer.elbo)}${many ? ` ± ${error(answer.elbo_error)}` : ""} nats`],
    ["parts", `E[log p(x|z)] ${two(answer.reconstruction)}, KL ${two(answer.kl)} nats`],
    ["draws", `K = ${answer.num_samples.toLocaleString("en")}, ${answer.ess.toFixed(1)} effective${few}`],
    ["drawn from", answer.proposal],
    ["data", answer.conventions.join(", ") || "unchanged"],
  ];
}

function numbers(lines) {
  const list = document.createElement("dl");
  for (const [name, text, style] of lines) {
    const term = document.createElement("dt"), detail = document.createElement("dd");
    term.textContent = name;
    detail.textContent = text;
    if (style) detail.className = style;
    list.append(term, detail);
  }
  $("numbers").replaceChildren(list);
}

function row(cells) {
  const made = document.createElement("tr");
  for (const cell of cells) made.append(Object.assign(document.createElement("td"), { textContent: cell }));
  return made;
}

// Two decimals, or one digit of a smaller error.
function error(value) {
  return typeof value !== "number" ? inWords(value) : value >= 0.1 || value === 0 ? value.toFixed(2) : value.toPrecision(1);
}

function two(value) {
  return typeof value === "number" ? value.toFixed(2) : inWords(value);
}

function three(value) {
  return typeof value === "number" ? value.toFixed(3) : inWords(value);
}

function inWords(word) {
  return { inf: "∞", "-inf": "−∞", nan: "unknown" }[word] ?? word;
}
