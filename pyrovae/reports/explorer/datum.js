// A datum, by its number or drawn: q(z|x), its reconstruction, and its log p(x) with what to believe.

import { ask, complain } from "./asking.js";
import { pad } from "./pad.js";
import { bars, show } from "./pictures.js";

const $ = (id) => document.getElementById(id);

// `send(z)` is where the mean of q(z|x) is sent.
export function datum(about, send) {
  let question = null, found = null, under_way = new AbortController();

  // What is asked now takes the place of what was: the server stops computing that.
  function instead() {
    under_way.abort();
    under_way = new AbortController();
    return under_way.signal;
  }

  async function look(asked, before = []) {
    question = { ...asked, seed: seed() };
    const signal = instead();
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
    $("q-caption").textContent = "q(z|x): bars to its loc, lines of one scale either way; the most active dimension first";
    $("q-table").replaceChildren(...order.map((j) => row([`z[${j}]`, three(found.loc[j]), three(found.scale[j])])));
  }

  async function estimate() {
    const signal = instead(), asked = { ...question, seed: seed(), ...choices() };
    numbers([["log p(x)", `estimating by ${asked.num_samples.toLocaleString("en")} draws`, "first waiting"]]);
    try {
      const answer = await ask("/evaluate", asked, signal);
      complain("");
      numbers(told(answer));
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
    const use = (said) => look({ pixels: drawing.grey(), fit: $("fit").checked }, said);
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

function told(answer) {
  const { reliability } = answer, unknown = reliability.startsWith("unknown"), many = answer.num_samples > 1;
  const limit = unknown ? "" : ` (${reliability === "reliable" ? "" : "reliable "}below ${answer.threshold.toFixed(2)})`;
  const judged = reliability === "beyond" ? `beyond its draws${limit}: log p(x) is only a lower bound` : reliability + limit;
  const few = answer.error_is_known ? "" : ", too few for a reliable error";
  return [
    ["log p(x)", `${two(answer.log_evidence)}${many ? ` ± ${error(answer.standard_error)}` : ""} nats`, "first"],
    ["k-hat", unknown ? reliability : `${two(answer.khat)}, ${judged}`],
    ["ELBO", `${two(answer.elbo)}${many ? ` ± ${error(answer.elbo_error)}` : ""} nats`],
    ["parts", `E[log p(x|z)] ${two(answer.reconstruction)}, KL ${two(answer.kl)} nats`],
    ["draws", `K = ${answer.num_samples.toLocaleString("en")}, ${answer.ess.toFixed(1)} effective${few}`],
    ["drawn from", answer.proposal],
    ["data", answer.conventions.join(", ") || "as they are"],
  ];
}

function numbers(lines) {
  const list = document.createElement("dl");
  for (const [name, said, style] of lines) {
    const term = document.createElement("dt"), detail = document.createElement("dd");
    term.textContent = name;
    detail.textContent = said;
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

// Two digits of it, as far as they count beside two decimals.
function error(value) {
  return typeof value !== "number" ? said(value) : value >= 0.1 || value === 0 ? value.toFixed(2) : value.toPrecision(1);
}

function two(value) {
  return typeof value === "number" ? value.toFixed(2) : said(value);
}

function three(value) {
  return typeof value === "number" ? value.toFixed(3) : said(value);
}

function said(word) {
  return { inf: "∞", "-inf": "−∞", nan: "unknown" }[word] ?? word;
}
