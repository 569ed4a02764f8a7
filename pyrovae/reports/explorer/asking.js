// Questions to the server, and error messages.

const SLOW = 400; // milliseconds
const place = document.getElementById("error");

place.addEventListener("click", () => complain(""));

export function complain(message) {
  place.textContent = message;
  place.hidden = message === "";
}

export async function ask(path, question, signal) {
  let response;
  try {
    response = await fetch(path, question === undefined ? {} : {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(question),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is pyrovae explore still running?");
  }
  const answer = await response.json().catch(() => ({ error: `the server answered with status ${response.status}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// Asks one question at a time. Of the questions that come meanwhile, only the last is asked.
// While an answer takes long, the element is shown as waiting.
export function latest(path, element, use) {
  let under_way = false, waiting = null;
  return async function put(question) {
    if (under_way) { waiting = question; return; }
    under_way = true;
    const slow = setTimeout(() => element.classList.add("waiting"), SLOW);
    try {
      const answer = await ask(path, question);
      complain("");
      use(answer);
    } catch (error) {
      complain(error.message);
    }
    clearTimeout(slow);
    element.classList.remove("waiting");
    under_way = false;
    if (waiting !== null) {
      const next = waiting;
      waiting = null;
      put(next);
    }
  };
}
