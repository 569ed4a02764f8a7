// A datum, by its number or drawn: q(z|x), its reconstruction, and its log p(x) with what to believe.

import { ask, complain } from "./asking.js";
import { pad } from "./pad.js";
import { bars, show } from "./pictures.js";

const $ = (id) => document.getElementById(id);

// `send(z)` is where the mean of q(z|x) is sent.
export function datum(about, send) {
  let question = null, found = null, turn = 0;

  async function look(asked, before = []) {
    const mine = ++turn;
    question = { ...asked, seed: seed() };
    try {
      const answer = await ask("/encode", question);
      if (mine !== turn) return;
      complain("");
      found = answer;
      draw(before);
      await estimate();
    } catch (error) {
      if (mine === turn) complain(error.message);
    }
  }

  function draw(before = []) {
    $("datum").hidden = false;
    show($("x"), found.x, about);
    show($("reconstruction"), found.reconstruction, about);
    const what = "row" in question ? `Row ${question.row} of the test split` : "Your image";
    const label = found.label === null ? "" : `, class ${found.label}`;
    const said = [...before, ...found.said].join("; ");
    $("x-caption").textContent = `${what}${label}, as the model sees it${said ? `: ${said}` : ""}`;
    const order = about.order;
    bars($("q"), order.map((j) => [found.loc[j], found.scale[j]]), order.map((j) => `z${j + 1}`));
    $("q-caption").textContent = "q(z|x): bars to its loc, lines of one scale either way; the most active dimension first";
    $("q-table").replaceChildren(...order.map((j) => row([`z${j + 1}`, three(found.loc[j]), three(found.scale[j])])));
  }

  async function estimate() {
    const mine = ++turn, asked = { ...question, seed: seed(), ...choices() };
    numbers([["log p(x)", `estimating by ${asked.num_samples.toLocaleString("en")} draws`, "first waiting"]]);
    try {
      const answer = await ask("/evaluate", asked);
      if (mine !== turn) return;
      complain("");
      numbers(told(answer));
    } catch (error) {
      if (mine !== turn) return;
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
    const use = (said) => look({ pixels: drawing.grey(), centre: $("centre").checked }, said);
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
  const error = answer.num_samples > 1 ? ` ± ${three(answer.standard_error)}` : "";
  const below = answer.word === "useless" ? ": log p(x) is at least about this" : "";
  const limit = typeof answer.threshold === "number" ? `, reliable below ${answer.threshold.toFixed(2)}` : "";
  return [
    ["log p(x)", `${two(answer.log_evidence)}${error} nats`, "first"],
    ["k-hat", `${two(answer.khat)}, ${answer.word}${below}${answer.word.startsWith("unknown") ? "" : limit}`],
    ["ELBO", `${two(answer.elbo)}${answer.num_samples > 1 ? ` ± ${three(answer.elbo_error)}` : ""} nats`],
    ["parts", `E[log p(x|z)] ${two(answer.reconstruction)}, KL ${two(answer.kl)} nats`],
    ["draws", `K = ${answer.num_samples.toLocaleString("en")}, ${two(answer.ess)} effective, from: ${answer.proposal}`],
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

function two(value) {
  return typeof value === "number" ? value.toFixed(2) : said(value);
}

function three(value) {
  return typeof value === "number" ? value.toFixed(3) : said(value);
}

function said(word) {
  return { inf: "∞", "-inf": "−∞", nan: "unknown" }[word] ?? word;
}
