// The page of pyrovae explore: latent space on one side, a datum on the other.

import { ask, complain } from "./asking.js";
import { datum } from "./datum.js";
import { latent } from "./latent.js";

try {
  const about = await ask("/about");
  document.title = `pyrovae explore ${about.name}`;
  document.getElementById("name").textContent = about.name;
  document.getElementById("about").textContent = `${about.data}; ${about.parts}`;
  document.querySelector("main").hidden = false;
  const space = latent(about);
  datum(about, space.go);
} catch (error) {
  complain(error.message);
}
