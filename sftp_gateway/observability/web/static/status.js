// Keeps the page up to date: fetches it again and takes over the parts that live. Without this
// script the page is what it was when it was loaded, and everything else works.
"use strict";

const EVERY = 5000;
const button = document.getElementById("pause");
let paused = false;

function busy() {
  // Nobody's selection or focused link is taken away.
  const focused = document.activeElement;
  return paused || document.hidden || !document.getSelection().isCollapsed ||
    (focused !== null && focused.closest("[data-live]") !== null);
}

function take(fresh) {
  for (const old of document.querySelectorAll("[data-live]")) {
    const part = fresh.querySelector(`[data-live="${old.dataset.live}"]`);
    if (part === null) continue;
    if (old.className !== part.className) old.className = part.className;
    if (old.innerHTML !== part.innerHTML) old.replaceChildren(...part.childNodes);
  }
  document.title = fresh.title;
}

async function refresh() {
  if (busy()) return;
  const about = document.querySelector('[data-live="about"]');
  try {
    const answer = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
    if (answer.status === 401) location.reload();
    if (!answer.ok) throw new Error(answer.statusText);
    const text = await answer.text();
    if (!busy()) take(new DOMParser().parseFromString(text, "text/html"));
  } catch {
    if (!about.textContent.endsWith("no answer")) about.textContent += " · no answer";
  }
}

button.hidden = false;
button.addEventListener("click", () => {
  paused = !paused;
  button.setAttribute("aria-pressed", String(paused));
  button.textContent = paused ? "Resume" : "Pause";
  refresh();
});
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, EVERY);
